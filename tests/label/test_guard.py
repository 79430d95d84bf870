"""What the server lets in, called directly: no server runs."""

import asyncio
import json

import pytest


@pytest.fixture
def ask(monkeypatch):
    """Sends a request through the guard; status, headers, what is said, and the path that arrives behind it."""
    from monai_fusenet.label import guard

    monkeypatch.setattr(guard, "RULES", guard.Rules(token="geheim"))
    monkeypatch.setattr(guard, "MOST_BYTES", 100)

    def send(path="/info/", query="", pieces=(b"",), **headers):
        arrived, sent = [], []

        async def app(scope, receive, send):
            while (await receive()).get("more_body"):
                pass
            arrived.append(scope["path"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        left[-1]["more_body"] = False

        async def receive():
            return left.pop(0)

        async def answer(message):
            sent.append(message)

        named = {"host": "me:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
        encoded = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": encoded, "method": "POST"}
        asyncio.run(guard.Guard(app)(scope, receive, answer))
        body = sent[1]["body"]
        said = json.loads(body).get("detail", "") if body else ""
        return sent[0]["status"], dict(sent[0]["headers"]), said, arrived[0] if arrived else None

    return send


@pytest.mark.parametrize(
    "way",
    [
        {"query": "token=geheim"},
        {"authorization": "Bearer geheim"},
        {"path": "/token/geheim/info/"},
        {"cookie": "other=1; monai_fusenet_token=geheim"},
    ],
)
def test_every_way_of_knowing_the_token(ask, way):
    assert ask(**way)[::3] == (200, "/info/")


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"query": "token=falsch"},
        {"query": "token="},
        {"authorization": "Bearer falsch"},
        {"path": "/token/falsch/info/"},
        {"path": "/token/geheimer/info/"},
        {"path": "/token/"},
        {"cookie": "monai_fusenet_token=falsch"},
        {"query": "token=%C3%A9"},
    ],
)
def test_without_the_token_nothing_is_answered(ask, way):
    status, _, said, arrived = ask(**way)
    assert (status, arrived) == (401, None)
    assert "open the address that the server printed" in said


def test_the_page_keeps_the_token_where_no_script_and_no_other_page_reads_it(ask):
    status, headers, _, _ = ask("/annotate/", "token=geheim")
    assert status == 303
    assert headers[b"location"] == b"/annotate/"
    assert headers[b"set-cookie"] == b"monai_fusenet_token=geheim; Path=/; HttpOnly; SameSite=Strict"


def test_the_token_does_not_let_pages_of_others_in(ask):
    assert ask("/annotate/images", "token=geheim", origin="http://other")[0] == 403
    assert ask("/annotate/images", "token=geheim", origin="http://me:8000")[0] == 200


def test_what_grows_too_large_is_refused_whatever_it_said(ask):
    known = {"authorization": "Bearer geheim"}
    assert ask(pieces=[b"x" * 60, b"x" * 40], **known)[0] == 200
    assert ask(pieces=[b"x" * 60, b"x" * 41], **known)[:3:2] == (413, "a request may have 0 MiB at most")
    assert ask(content_length="101", **known)[0] == 413
    assert ask(content_length="many", **known)[0] == 413
