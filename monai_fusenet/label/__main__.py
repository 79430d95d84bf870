"""`python -m monai_fusenet.label --studies FOLDER`: a MONAI Label server for a folder of images.

`monai-fusenet annotate FOLDER` is the same.

Web pages of other origins cannot read its answers, unless the environment variable MONAI_LABEL_CORS_ORIGINS lists them.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from monai_fusenet.utils.files import atomic_path

ANYWHERE = ("0.0.0.0", "::", "")  # all addresses of this machine, none of which others can open
MAIN = "from monai_fusenet.label.app import FuseNetApp  # noqa: F401\n"


def write_app(folder: str | Path) -> Path:
    """Writes the `main.py` that `monailabel start_server --app` looks for into a folder, which is made if needed.

    Raises:
        ValueError: when the folder already holds another `main.py`.
    """
    folder = Path(folder)
    main = folder / "main.py"
    if main.exists():
        if main.is_file() and _code(main.read_text("utf-8", errors="replace")) == _code(MAIN):
            return folder
        raise ValueError(f"{main} is another app's and stays as it is: choose another folder for --app")
    with atomic_path(main) as temporary:
        temporary.write_text(MAIN, encoding="utf-8")
    return folder


def _code(text: str) -> list[str]:
    """Lines without comments, of code that has no # in texts."""
    return [code for line in text.splitlines() if (code := line.split("#")[0].strip())]


def is_address(studies: str | Path) -> bool:
    """Whether images come from a DICOMweb server."""
    return str(studies).startswith(("http://", "https://"))


def default_app(studies: str | Path) -> Path:
    """The default app folder, in the user's home, for a folder of images."""
    place = str(studies).rstrip("/") if is_address(studies) else str(Path(studies).resolve())
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return Path.home() / ".monai_fusenet" / "label" / f"{Path(place).name}-{digest}"


def instructions(studies: str | Path, host: str, port: int, token: str = "") -> str:
    """The addresses for people and clients, and the first steps."""
    url = f"http://{socket.gethostname() if host in ANYWHERE else host}:{port}"
    page = f"{url}/annotate/" + (f"?token={token}" if token else "")
    first = ", once the page above was opened" if token else ""
    viewer = f"\n  OHIF:      {url}/ohif/{first}; mode MONAI Label, server {url}/" if is_address(studies) else ""
    url += f"/token/{token}" if token else ""
    return f"""Annotate {studies} in a browser: {page}
MONAI Label serves it at {url}{viewer}
  3D Slicer: module MONAI Label, server {url}
  CVAT:      MONAI Label's plugin for CVAT, with MONAI_LABEL_SERVER={url} MONAI_LABEL_MODEL=fusenet_click
  a script:  monailabel.client.MONAILabelClient("{url}")
Web pages of other origins cannot read its answers, unless the environment variable MONAI_LABEL_CORS_ORIGINS lists them.
Each image needs some seconds for its clusters. To make all of them first, so that nobody waits:
  curl -X POST {url}/batch/infer/fusenet_mask -H "Content-Type: application/json" -d '{{"multi_gpu": false}}'"""


def is_loopback(host: str) -> bool:
    """Whether an address belongs to this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def why_taken(host: str, port: int) -> str:
    """The reason why the server cannot listen there; "" if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does it
        try:
            tried.bind((host, port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""


def open_once_served(host: str, port: int, token: str) -> None:
    """Opens the page in a browser as soon as the server listens."""

    def wait() -> None:
        for _ in range(600):
            with suppress(OSError), socket.create_connection((host, port), timeout=1):
                webbrowser.open(f"http://{host}:{port}/annotate/" + (f"?token={token}" if token else ""))
                return
            time.sleep(0.5)

    threading.Thread(target=wait, daemon=True).start()


def limited_server(host: str, port: int) -> Any:
    """MONAI Label's server; only web pages of its own origin can read its answers.

    By default, MONAI Label lets every page that is open in a browser on this machine read them. The variable
    `MONAI_LABEL_CORS_ORIGINS`, in the environment or in a file `.env`, overrides the origins: a JSON list; `[]` means
    MONAI Label's default.
    """
    from monailabel.config import settings
    from monailabel.main import Main

    origins = [f"http://{name}:{port}" for name in dict.fromkeys(("127.0.0.1", "localhost", host))]
    if "MONAI_LABEL_CORS_ORIGINS" in settings.model_fields_set:
        # pydantic's URLs end with a slash, which no browser sends
        origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    # Hidden while MONAI Label writes its settings as JSON, which does not work for URLs, into the environment, from
    # where the processes of trainings and batches read them and write them as JSON again.
    settings.MONAI_LABEL_CORS_ORIGINS = []

    class LimitedServer(Main):
        def start_server_init_settings(self, args: argparse.Namespace) -> None:
            super().start_server_init_settings(args)
            settings.MONAI_LABEL_CORS_ORIGINS = origins

    return LimitedServer()


PARAMETERS: tuple[click.Parameter, ...] = (
    click.Option(
        ["--preset"],
        default="generic",
        metavar="NAME",
        show_default=True,
        help="Kind of images: generic, or the name of a preset, for example skin; a wrong name lists all.",
    ),
    click.Option(
        ["--method"],
        default="fusenet",
        metavar="NAME",
        show_default=True,
        help="Method that fits the images: fusenet, or the name of an overlay, for example s3net.",
    ),
    click.Option(
        ["--host"],
        default="127.0.0.1",
        metavar="ADDRESS",
        show_default=True,
        help="Address to listen on; by default only this machine can connect.",
    ),
    click.Option(["--port"], default=8000, type=int, metavar="NUMBER", show_default=True, help="Port to listen on."),
    click.Option(["open_page", "--open"], is_flag=True, help="Open the page in a browser."),
    click.Option(
        ["--conf"],
        nargs=2,
        multiple=True,
        metavar="NAME VALUE",
        help="A setting and its value: cache_dir, cache_gib or seed.",
    ),
    click.Option(
        ["--app"],
        metavar="FOLDER",
        help="Folder for weights, clusters and logs; by default one for each FOLDER in ~/.monai_fusenet/label.",
    ),
)


def serve(
    studies: str,
    preset: str,
    method: str,
    host: str,
    port: int,
    open_page: bool,
    conf: Sequence[tuple[str, str]],
    app: str | None,
) -> None:
    """Serves a folder of images until the process ends; arguments are those of the command line.

    Raises:
        SystemExit: with one line, if it cannot.
    """
    if not is_address(studies) and not Path(studies).is_dir():
        sys.exit(f"error: there is no folder {studies}; give a folder of images, or the address of a DICOMweb server")
    try:
        import monailabel.main  # noqa: F401

        from monai_fusenet.label.clustering import read_conf
        from monai_fusenet.label.guard import RULES
    except ImportError as error:
        sys.exit(f"error: {error.name} is not installed; pip install 'monai-fusenet[label]'")
    try:
        settings = {"preset": preset, "method": method, **dict(conf)}
        read_conf(settings)
        folder = write_app(app or default_app(studies))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if reason := why_taken(host, port):
        sys.exit(f"error: cannot listen on port {port} of {host} ({reason}); choose another --port")
    token = "" if is_loopback(host) else secrets.token_urlsafe(16)
    RULES.token = token
    RULES.hosts = frozenset() if token else frozenset({"127.0.0.1", "localhost", "::1", host})
    print(instructions(studies, host, port, token), flush=True)
    server = limited_server(host, port)
    if open_page:
        open_once_served(host, port, token)
    command = ["start_server", "--app", str(folder), f"--studies={studies}", "--host", host]
    command += ["--port", str(port), "--uvicorn_app", "monai_fusenet.label.server:app"]
    for name, value in settings.items():
        command += ["--conf", name, value]
    server.action_start_server(server.args_parser().parse_args(command))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    studies = click.Option(
        ["--studies"], required=True, metavar="FOLDER", help="Folder of images, or the address of a DICOMweb server."
    )
    name = "python -m monai_fusenet.label"
    command = click.Command(name, params=[studies, *PARAMETERS], callback=serve, help=__doc__)
    command.main(arguments, prog_name=name, standalone_mode=__name__ == "__main__")


if __name__ == "__main__":
    main()
