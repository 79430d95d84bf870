"""Access control of the server: its own pages, programs on this machine, and others that know the token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from monailabel.config import settings

__all__ = ["RULES", "Guard", "Rules"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_BYTES = 2**29  # of a request: an image that is sent is the largest
COOKIE = "monai_fusenet_token"
PREFIX = "/token/"  # clients that know an address alone put the token into it
PAGE = "/annotate/"


@dataclass
class Rules:
    """The rules that the launcher has set.

    Attributes:
        hosts: names that requests may use for this machine; none: any. This stops pages of another origin whose name
            somebody points at this machine.
        token: token that a request must have; "": none.
    """

    hosts: frozenset[str] = field(default_factory=frozenset)
    token: str = ""


RULES = Rules()  # of this process


class _TooLargeError(Exception):
    pass


class Guard:
    """Refuses requests before anything else sees them, in one line.

    A page of another origin is refused, unless MONAI Label's setting lists its origin. MONAI Label's own default
    accepts every page; even then the annotation page answers only requests of its own.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        knows = self._knows_token(scope, headers)  # which takes the token out of the path
        refusal = self._refusal(scope, headers, knows)
        if refusal:
            await _answer(send, *refusal)
            return
        if RULES.token and scope["path"] == PAGE and b"token=" in scope["query_string"]:
            await _remember(send)
            return
        await self._count(scope, receive, send)

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if scope["path"].startswith(PREFIX):
            said, _, rest = scope["path"][len(PREFIX) :].partition("/")
            scope["path"] = f"/{rest}"
            scope["raw_path"] = scope["path"].encode()
        elif headers.get("authorization", "").lower().startswith("bearer "):
            said = headers["authorization"][len("Bearer ") :]
        elif b"token=" in scope["query_string"]:
            said = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        else:
            kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            said = kept.value if kept else ""
        return not RULES.token or hmac.compare_digest(said.encode(), RULES.token.encode())

    def _refusal(self, scope: Scope, headers: dict[str, str], knows: bool) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, asker = urlsplit(f"//{host}").hostname or "", urlsplit(origin or "").netloc
        except ValueError:
            return 400, f"the host {host!r:.100} or the origin {origin!r:.100} is no address"
        if RULES.hosts and name not in RULES.hosts:
            return 403, f"this server is not asked by the name {name!r:.100}"
        allowed = [str(one).rstrip("/") for one in settings.MONAI_LABEL_CORS_ORIGINS]
        own = asker == host if origin else True
        is_page = scope["path"].startswith(PAGE)
        if not own and origin not in allowed and (allowed or is_page):
            return 403, f"a page of another origin, {origin!r:.100}, may not ask this server"
        strange = headers.get("sec-fetch-site") in ("cross-site", "same-site") and origin is None
        if strange and (allowed or is_page) and headers.get("sec-fetch-mode") != "navigate":
            return 403, "a page of another origin may not ask this server"
        if not knows:
            return 401, "the token is missing or wrong: open the address that the server printed when it started"
        if ".." in scope["path"].replace("\\", "/").split("/"):
            return (
                400,
                f"a path may not lead upwards, got {scope['path']!r:.100}",
            )  # out of the DICOMweb server's, either
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return 413, f"a request may have {MOST_BYTES // 2**20} MiB at most, got {length} bytes"
        return None

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on that may not have said how long it is."""
        received, started = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BYTES:
                raise _TooLargeError
            return message

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, sent)
        except _TooLargeError:
            if not started:
                await _answer(send, 413, f"a request may have {MOST_BYTES // 2**20} MiB at most")


async def _answer(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _remember(send: Send) -> None:
    """Puts the token into a cookie that no script reads, and out of the address."""
    cookie = f"{COOKIE}={RULES.token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", PAGE.encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
