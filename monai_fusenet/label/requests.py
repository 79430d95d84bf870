"""What a client's request says, value by value; what makes no sense is a `ValueError` of one line."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from monai_fusenet.label.cache import Clusters

__all__ = ["is_upload", "label_names", "option", "read_clicks", "read_switch", "to_index"]

FOREGROUND = {"foreground": 1}
MOST_CLICKS = 100  # of either kind: the time that clicks take grows with a power of their number
FARTHEST = 1e9  # no image is as large


def option(name: str, value: Any, allowed: Sequence[str]) -> str:
    """A value of a request, the first allowed one where there is none; raises `ValueError` for any other."""
    if value is None or list(allowed) == value:  # clients send the list back when nothing was chosen
        return allowed[0]
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {str(value)[:100]}")
    return str(value)


def read_switch(request: Mapping[str, Any], name: str, default: bool) -> bool:
    """A switch of a request, in JSON or as the text "true" or "false"; raises `ValueError` for any other value."""
    value = request.get(name)
    if value in (None, ""):
        return default
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r:.100}")
    return value


def label_names(request: Mapping[str, Any], key: str = "label") -> dict[str, int]:
    """The name of the object and its label, by which clients file the answer.

    3D Slicer sends the name of the segment that is being made. A name is never opened as a file.

    Args:
        request: what came.
        key: where clients put the name.

    Returns:
        the given name and 1; `foreground` and 1 without one, and for `background`, which clients leave out.

    Raises:
        ValueError: unless the name is text.
    """
    name = request.get(key)
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{key} must be the name of the object, got {name!r:.100}")
    if not name or name.lower() == "background" or is_upload(name):
        return FOREGROUND
    return {name: 1}


def is_upload(path: Any) -> bool:
    """Whether a path is that of a file which came with a request, as MONAI Label names it."""
    if not isinstance(path, str) or "\0" in path:
        return False
    folder, name = os.path.split(path)
    at_home = folder == tempfile.gettempdir() and re.fullmatch(r"tmp\w{8}(\..*)?", name)
    return bool(at_home) and os.path.isfile(path) and not os.path.islink(path)


def read_clicks(request: Mapping[str, Any], kind: str) -> list[list[float]]:
    """The clicks of a kind in a request, as they came, in JSON or as text of JSON.

    Raises:
        ValueError: unless they are some lists of numbers.
    """
    clicks = request.get(kind) or []
    if isinstance(clicks, str):
        with suppress(ValueError, RecursionError):  # said below
            clicks = json.loads(clicks)

    def is_click(click: Any) -> bool:
        return isinstance(click, list) and all(
            isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < FARTHEST
            for number in click
        )

    if not isinstance(clicks, list) or not all(map(is_click, clicks)):
        raise ValueError(f"{kind} must be a list of clicks, as [[120, 80], [30, 44]], got {str(clicks)[:100]}")
    if len(clicks) > MOST_CLICKS:
        raise ValueError(f"{kind} must hold at most {MOST_CLICKS} clicks, got {len(clicks)}; draw scribbles instead")
    return clicks


def to_index(click: Sequence[float], found: Clusters) -> tuple[int, ...]:
    """A click of a client as an index of the image as it was loaded.

    Args:
        click: [x = column, y = row] on a picture, [i, j, k] on everything with a geometry; a further coordinate of a
            picture or of a 2-D image is left out.
        found: what is known of the image.

    Raises:
        ValueError: when there are too few coordinates, or the click lies outside the image.
    """
    shape, axes = found.clusters.shape, found.clusters.ndim
    rounded = [round(number) for number in click]
    if found.has_geometry and len(rounded) == len(found.grid_shape) > axes:
        dropped = max(axis for axis, side in enumerate(found.grid_shape) if side == 1)
        rounded = [number for axis, number in enumerate(rounded) if axis != dropped]
    if len(rounded) < axes:
        raise ValueError(f"a click on this image must have {axes} coordinates, got {list(click)}")
    index = tuple(rounded[:axes] if found.has_geometry else rounded[1::-1])
    if not all(0 <= number < side for number, side in zip(index, shape, strict=True)):
        sides = " x ".join(str(side) for side in (shape if found.has_geometry else shape[::-1]))
        order = "[i, j, k]" if axes == 3 else "[i, j]" if found.has_geometry else "[x, y] = [column, row]"
        raise ValueError(f"the click {list(click)} lies outside the image of {sides} pixels; clicks are {order}")
    return index
