"""`python -m monai_fusenet.label --studies FOLDER`: a MONAI Label server for a folder of images.

Web pages of other origins may not read its answers, unless MONAI_LABEL_CORS_ORIGINS in the environment lists them.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai_fusenet.utils.files import atomic_path

ANYWHERE = ("0.0.0.0", "::", "")  # all addresses of this machine, none of which others can open
MAIN = "from monai_fusenet.label.app import FuseNetApp  # noqa: F401\n"


def write_app(folder: str | Path) -> Path:
    """Writes the `main.py` that `monailabel start_server --app` looks for into a folder, which is made if need be.

    Raises:
        ValueError: when a `main.py` of somebody else is there.
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
    """A folder of the user's own for each folder of images."""
    place = str(studies).rstrip("/") if is_address(studies) else str(Path(studies).resolve())
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return Path.home() / ".monai_fusenet" / "label" / f"{Path(place).name}-{digest}"


def instructions(studies: str | Path, host: str, port: int, token: str = "") -> str:
    """Where to point people and clients, and what to do first."""
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
Web pages of other origins may not read its answers, unless MONAI_LABEL_CORS_ORIGINS in the environment lists them.
Clusters take seconds for each image, and the server waits for them; make all of them first:
  curl -X POST {url}/batch/infer/fusenet_mask -H "Content-Type: application/json" -d '{{"multi_gpu": false}}'"""


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def why_taken(host: str, port: int) -> str:
    """Why nobody can listen there; "" where one can."""
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
    """MONAI Label's server, whose answers web pages of its own origin alone may read.

    MONAI Label's default is every page that is open in a browser on this machine. `MONAI_LABEL_CORS_ORIGINS` in the
    environment or in a file `.env` overrules this: a JSON list of origins; `[]` brings that default back.
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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m monai_fusenet.label", description=__doc__)
    parser.add_argument("--studies", required=True, help="folder of images, or the address of a DICOMweb server")
    parser.add_argument(
        "--preset",
        default="generic",
        help="what kind of image it is: generic, or the name of an overlay, as skin; a wrong one names all",
    )
    parser.add_argument(
        "--method", default="fusenet", help="how images are fitted: fusenet, or the name of an overlay, as s3net"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", default=8000, type=int)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="cache_dir, cache_gib, seed"
    )
    parser.add_argument("--app", help="folder for weights, clusters and logs (default: in ~/.monai_fusenet/label)")
    options = parser.parse_args(arguments)
    if not is_address(options.studies) and not Path(options.studies).is_dir():
        sys.exit(f"error: studies must be a folder of images or a DICOMweb address, but {options.studies} is none")
    try:
        import monailabel.main  # noqa: F401

        from monai_fusenet.label.clustering import read_conf
        from monai_fusenet.label.guard import RULES
    except ImportError as error:
        sys.exit(f"error: {error.name} is not installed; pip install 'monai-fusenet[label]'")
    try:
        conf = {"preset": options.preset, "method": options.method, **dict(options.conf)}
        read_conf(conf)
        app = write_app(options.app or default_app(options.studies))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if reason := why_taken(options.host, options.port):
        sys.exit(f"error: cannot listen on port {options.port} of {options.host} ({reason}); choose another --port")
    token = "" if is_loopback(options.host) else secrets.token_urlsafe(16)
    RULES.token = token
    RULES.hosts = frozenset() if token else frozenset({"127.0.0.1", "localhost", "::1", options.host})
    print(instructions(options.studies, options.host, options.port, token), flush=True)
    server = limited_server(options.host, options.port)
    if options.open:
        open_once_served(options.host, options.port, token)
    command = ["start_server", "--app", str(app), "--studies", options.studies, "--host", options.host]
    command += ["--port", str(options.port), "--uvicorn_app", "monai_fusenet.label.server:app"]
    for name, value in conf.items():
        command += ["--conf", name, value]
    server.action_start_server(server.args_parser().parse_args(command))


if __name__ == "__main__":
    main()
