"""MONAI Label's web server, which says what is wrong with a request that does not reach the app."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Awaitable, Callable
from json import JSONDecodeError

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from monailabel.app import app
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from monai_fusenet.label.annotate import router
from monai_fusenet.label.datastores import UnreadableSeriesError
from monai_fusenet.label.guard import Guard
from monai_fusenet.utils.errors import failure_reason

__all__ = ["app"]

# MONAI Label calls these its own
FAULTS_OF_REQUEST = ("Neither Image nor File", "Model File Name NOT configured")
OF_NAMES = (errno.EISDIR, errno.ENAMETOOLONG)
NO_OBJECT = 'params must be a JSON object, as {"foreground": [[3, 3]]}'
NO_SCRIBBLES = (
    "a label as .bin must hold one byte for each voxel of an image in the datastore that is a volume; "
    "scribbles on a picture must be a file of an image format"
)
app.middleware_stack = None  # it is built again with what follows: this may be imported once the server has started
app.include_router(router)
app.add_middleware(Guard)


@app.middleware("http")
async def refuse_early(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """400 for a DICOM SEG of a folder, which MONAI Label refuses after the seconds of a fit."""
    wants_seg = "/infer/" in request.url.path and request.query_params.get("output") == "dicom_seg"
    if wants_seg and not isinstance(app_instance().datastore(), DICOMWebDatastore):
        return JSONResponse({"detail": "output=dicom_seg needs a DICOMweb server as studies, not a folder"}, 400)
    if request.url.path.startswith("/proxy/") and not isinstance(app_instance().datastore(), DICOMWebDatastore):
        return JSONResponse({"detail": "the images come from a folder, and there is no DICOMweb server to ask"}, 404)
    return await go_on(request)


@app.exception_handler(TypeError)
@app.exception_handler(ValueError)
@app.exception_handler(RuntimeError)
@app.exception_handler(OSError)
def refuse_unread(request: Request, error: Exception) -> JSONResponse:
    """400 for what MONAI Label's endpoints stumble over while they read a request, before the app is asked."""
    if isinstance(error, UnreadableSeriesError):
        return JSONResponse({"detail": failure_reason(error)}, 400)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code.co_name == "binary_to_image" for frame in frames):
        return JSONResponse({"detail": NO_SCRIBBLES}, 400)
    last = frames[-1].f_globals.get("__name__", "")
    if not isinstance(error, OSError) and last.startswith(("monailabel.endpoints.", "json")):
        return JSONResponse({"detail": NO_OBJECT}, 400)
    if isinstance(error, OSError) and error.errno in OF_NAMES and last.startswith("monailabel."):
        return JSONResponse({"detail": f"a file must have a name of its own: {failure_reason(error)}"}, 400)
    raise error


@app.exception_handler(Exception)
def tell(request: Request, error: Exception) -> JSONResponse:
    """500 with one line for all else; the log has the rest."""
    return JSONResponse({"detail": f"the server failed: {failure_reason(error)}"}, 500)


@app.exception_handler(RequestValidationError)
def refuse_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """422 with a line for the parameters of a request that are missing or of another kind."""
    faults = [f"{' '.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(faults)}, 422)


@app.exception_handler(JSONDecodeError)
def refuse_no_json(request: Request, error: JSONDecodeError) -> JSONResponse:
    """400 for a field that must be JSON and is none: shells of Windows hand on single quotes."""
    return JSONResponse({"detail": f"expected JSON, got {error.doc!r:.100} ({error.msg})"}, 400)


@app.exception_handler(MONAILabelException)
def refuse(request: Request, error: MONAILabelException) -> JSONResponse:
    """400 for what MONAI Label itself refuses: an image, a label or a task that there is not."""
    return JSONResponse({"detail": str(error.msg)}, 400)


@app.exception_handler(HTTPException)
def refuse_as_such(request: Request, error: HTTPException) -> JSONResponse:
    """As FastAPI does it, but with 400 for what is the fault of a request."""
    is_of_request = str(error.detail).startswith(FAULTS_OF_REQUEST)
    return JSONResponse({"detail": error.detail}, 400 if is_of_request else error.status_code, headers=error.headers)
