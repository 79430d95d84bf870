"""MONAI Label's web server, which says what is wrong with a request that does not reach the app."""

from json import JSONDecodeError

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelException

__all__ = ["app"]

FAULTS_OF_REQUESTS = ("DICOM SEG format is not supported", "Neither Image nor File")  # MONAI Label calls them its own


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
    is_of_request = str(error.detail).startswith(FAULTS_OF_REQUESTS)
    return JSONResponse({"detail": error.detail}, 400 if is_of_request else error.status_code, headers=error.headers)
