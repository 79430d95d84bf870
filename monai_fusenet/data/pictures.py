"""Pictures: PNG, JPEG and BMP, read by Pillow; a TIFF has a reader of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from monai_fusenet.data.blocks import shrunk
from monai_fusenet.data.claims import DEFLATE, check_claim
from monai_fusenet.data.raster import Raster
from monai_fusenet.data.tiff import is_tiff, read_tiff, upright

__all__ = ["read_picture"]

_LOSSY = ("JPEG", "MPO")  # as Pillow names them


def read_picture(path: str, nearest: bool = False) -> Raster:
    """A picture in row-major order, upright; its content and not its suffix decides the format.

    One of more than `LARGEST_PICTURE` pixels becomes a smaller working copy, see `block_of`; only a TIFF is read in
    parts; others must fit into memory.

    Args:
        path: the file.
        nearest: for a large picture, take the middle pixel of each block instead of the mean, as labels need.

    Raises:
        ValueError: when it cannot be read, or has more pixels than Pillow permits.
    """
    if is_tiff(path):
        return read_tiff(path, nearest)
    try:
        return shrunk(_read_whole(path), nearest)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{error}; a tiled TIFF may be larger, which is read in parts: convert it to one") from error


def _read_whole(path: str) -> Raster:
    with Image.open(path) as picture:
        if picture.format == "TIFF":  # of a kind of its own, such as a camera's raw picture
            raise ValueError("a TIFF that begins in another way than TIFF 6.0 and BigTIFF do is not read")
        _check_picture(picture, os.path.getsize(path))
        deep = _is_deep_colour(picture)
        orientation = picture.getexif().get(0x0112, 1)
        page = ImageOps.exif_transpose(picture)
        lossy = picture.format in _LOSSY
        has_palette = page.mode in ("P", "PA")
        indices = np.asarray(page).reshape(1, page.height, page.width, -1)[..., 0] if has_palette else None
        page = _in_known_colours(page)
        pixels = np.asarray(page).reshape(page.height, page.width, -1)
    if deep:
        pixels = upright(_deep_colours(path).transpose(2, 0, 1), orientation).transpose(1, 2, 0)
    has_alpha = pixels.shape[2] in (2, 4)  # every mode left is grey or RGB
    return Raster(pixels.transpose(2, 0, 1), np.eye(4), False, has_alpha, indices=indices, lossy=lossy)


def _check_picture(picture: ImageFile.ImageFile, stored: int) -> None:
    """Refuses, by `check_claim`, a picture that the bytes of the file cannot hold."""
    bands = len(picture.getbands())
    may_be_bits = picture.format != "JPEG" and bands == 1
    # the codec of JPEG is taken to be as good as that of PNG
    packing = 1 if picture.format == "BMP" else DEFLATE
    check_claim((1, picture.height, picture.width, bands), 1 / 8 if may_be_bits else 1, stored, packing)


def _is_deep_colour(picture: ImageFile.ImageFile) -> bool:
    """Whether the file holds 16-bit colours, which Pillow would reduce to 8 bits without a word."""
    return re.search(r"(RGB|LA)[AX]?;16", str(picture.tile)) is not None


def _deep_colours(path: str) -> np.ndarray:
    """A PNG of 16-bit colours, (H, W, C); Pillow has found it whole."""
    from imagecodecs import png_decode  # few pictures need it

    return png_decode(Path(path).read_bytes())


def _in_known_colours(page: Image.Image) -> Image.Image:
    if page.mode == "1":
        return page.convert("L")
    if page.mode == "PA" or (page.mode == "P" and "transparency" in page.info):
        return page.convert("RGBA")
    if page.mode in ("P", "CMYK", "YCbCr", "HSV"):
        return page.convert("RGB")
    if page.mode not in ("L", "LA", "RGB", "RGBA", "F") and not page.mode.startswith("I"):
        raise ValueError(f"the colour mode {page.mode} is not read, expected grey, RGB, CMYK or a palette")
    return page
