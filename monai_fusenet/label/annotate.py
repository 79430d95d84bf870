"""The page at /annotate/ and its requests.

Masks are sent as bytes, one per pixel, in the order of the image's axes.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from pydantic import BaseModel

from monai_fusenet.label.annotations import UnknownImageError
from monai_fusenet.label.app import UNWRITABLE, FuseNetApp
from monai_fusenet.label.jobs import BusyError
from monai_fusenet.label.requests import read_clicks
from monai_fusenet.label.views import blank, thumbnail
from monai_fusenet.utils.errors import failure_reason

__all__ = ["router"]

FILES = Path(__file__).parent / "page"
TYPES = {"annotate.css": "text/css", "annotate.js": "text/javascript"}
POLICY = {"Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'"}
GZIP, GZIP_WINDOW = b"\x1f\x8b", 31  # first bytes, which no mask has, and how zlib is told
ENOUGH = 5  # accepted masks from which on the page offers to propose all others

Answer = TypeVar("Answer")
# Nobody is asked for anything unless MONAI Label's own authentication is switched on.
USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
router = APIRouter(prefix="/annotate", tags=["Annotate"], dependencies=[USER])


def fusenet_app() -> FuseNetApp:
    """The app of this server; HTTP 404 if it is another app."""
    app = app_instance()
    if not isinstance(app, FuseNetApp):
        raise HTTPException(404, "this server runs another app")
    return app


def answered(ask: Callable[[], Answer]) -> Answer:
    """Runs the request; an error becomes an HTTP status and one line."""
    try:
        return ask()
    except UnknownImageError as error:
        raise HTTPException(404, str(error)) from error
    except BusyError as error:
        raise HTTPException(409, str(error)) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise HTTPException(400, failure_reason(error)) from error
    except OSError as error:
        status = 507 if error.errno in UNWRITABLE else 400
        raise HTTPException(status, failure_reason(error)) from error


def packed(mask: np.ndarray) -> Response:
    """A mask in the form that the page reads."""
    content = gzip.compress(np.ascontiguousarray(mask, dtype=np.uint8).tobytes(), compresslevel=1)
    return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})


class Clicks(BaseModel):
    """Clicks on an image, in the order of its axes."""

    image: str
    foreground: list[Any] = []
    background: list[Any] = []
    from_mask: bool = True


@router.get("/", include_in_schema=False)
def page() -> Response:
    """The page."""
    return FileResponse(FILES / "index.html", headers={**POLICY, "Cache-Control": "no-cache"})


@router.get("/page/{name}", include_in_schema=False)
def page_file(name: str) -> Response:
    """A file of the page."""
    if name not in TYPES:
        raise HTTPException(404, f"there is no {name!r:.100}")
    return FileResponse(FILES / name, media_type=TYPES[name], headers={"Cache-Control": "no-cache"})


@router.get("/images")
def images() -> dict[str, Any]:
    """All images with their states, and the folder of accepted masks."""
    app = fusenet_app()
    app.annotations.refresh()
    return {"folder": app.studies, "enough": ENOUGH, "images": answered(app.annotations.images)}


@router.get("/status")
def status() -> dict[str, Any]:
    """The number of images in each state, and the current work of the server."""
    app = fusenet_app()
    job = app.jobs.progress()
    if job["running"]:
        app.annotations.refresh()  # another process saves masks
    counts = Counter(app.annotations.state(image) for image in app.datastore().list_images())
    return {
        "counts": {state: counts[state] for state in ("new", "proposed", "accepted")},
        "fitting": app.clusterer.fitting,
        "job": job,
        "expected_dice": app.expected_dice(),
    }


@router.get("/image")
def image(image: str) -> dict[str, Any]:
    """The data to show an image: its shape, planes, and grey values."""
    found = answered(lambda: fusenet_app().annotations.shown(image))
    views = [view._asdict() for view in found.views]
    return {**found._asdict(), "views": views, "pixels": None}


@router.get("/slice")
def slice_(image: str, view: int = 0, index: int = 0) -> Response:
    """A slice, row by row: uint16, little-endian, from `low` (0) to `high` (65535); or RGB, a byte each."""
    pixels = answered(lambda: fusenet_app().annotations.shown(image).slice(view, index))
    little = pixels if pixels.dtype == np.uint8 else pixels.astype("<u2")
    return Response(little.tobytes(), media_type="application/octet-stream")


@router.get("/thumbnail")
def thumbnail_(image: str) -> Response:
    """A small picture of an image."""

    def ask() -> bytes:
        try:
            return thumbnail(fusenet_app().annotations.shown(image))
        except UnknownImageError:
            raise
        except (ValueError, OSError):  # which opening the image tells
            return blank()

    content = answered(ask)
    return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=600"})


@router.get("/mask")
def mask(image: str) -> Response:
    """The accepted or proposed mask of an image; if there is none, one is proposed."""
    return packed(answered(lambda: fusenet_app().annotations.mask(image)))


@router.post("/click")
def click(clicks: Clicks) -> Response:
    """The mask for given clicks, in the order of the image's axes: rows and columns of a picture."""

    def ask() -> np.ndarray:
        foreground, background = (read_clicks(clicks.model_dump(), kind) for kind in ("foreground", "background"))
        return fusenet_app().annotations.clicked(clicks.image, foreground, background, clicks.from_mask)

    return packed(answered(ask))


@router.post("/accept")
async def accept(request: Request, image: str) -> dict[str, str]:
    """Keeps a mask, which is the body, as the accepted one."""
    body = await request.body()
    return await run_in_threadpool(answered, lambda: _accept(image, body))


def _accept(image: str, body: bytes) -> dict[str, str]:
    annotations = fusenet_app().annotations
    shape = annotations.shown(image).shape
    values = _unpacked(body, int(np.prod(shape)))
    annotations.accept(image, np.frombuffer(values, dtype=np.uint8).reshape(shape) > 0)
    return {"state": annotations.state(image)}


def _unpacked(body: bytes, length: int) -> bytes:
    """A mask of so many pixels that was sent as it is, or by gzip."""
    if body.startswith(GZIP):
        try:
            body = zlib.decompressobj(GZIP_WINDOW).decompress(body, length + 1)  # no more, whatever it holds
        except zlib.error as error:
            raise ValueError(f"the body must be a mask by gzip, and it is damaged: {error}") from error
    if len(body) != length:
        came = f"more than {length}" if len(body) > length else len(body)
        raise ValueError(f"the body must be the mask, a byte for each of {length} pixels, got {came} bytes")
    return body


@router.post("/reject")
def reject(image: str) -> dict[str, str]:
    """Removes the mask of an image."""
    annotations = fusenet_app().annotations
    answered(lambda: annotations.reject(image))
    return {"state": annotations.state(image)}


@router.post("/fit")
def fit() -> dict[str, Any]:
    """Proposes masks for all images that have none, without any label."""
    answered(fusenet_app().jobs.fit_all)
    return fusenet_app().jobs.progress()


@router.post("/propose")
def propose() -> dict[str, Any]:
    """Trains on the accepted masks and proposes masks for all other images."""
    app = fusenet_app()
    if not app.datastore().get_labeled_images():
        raise HTTPException(400, "no mask is accepted yet: accept some, then propose all others")
    answered(app.jobs.propose_all)
    return app.jobs.progress()


@router.post("/stop")
def stop() -> dict[str, Any]:
    """Ends the work in the background."""
    fusenet_app().jobs.stop()
    return fusenet_app().jobs.progress()


@router.get("/export")
def export(proposals: Annotated[bool, Query()] = False) -> Response:
    """A ZIP file of the accepted masks and, if wanted, of the proposed ones."""
    pieces = fusenet_app().annotations.export(proposals)
    headers = {"Content-Disposition": 'attachment; filename="masks.zip"'}
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)
