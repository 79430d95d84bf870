"""Pictures: PNG, JPEG, BMP and TIFF, read by Pillow."""

from __future__ import annotations

import math
import os
import re

import itk
import numpy as np
from PIL import Image, ImageFile, ImageOps

from monai_fusenet.data.claims import DEFLATE, check_claim
from monai_fusenet.data.itk_files import itk_image
from monai_fusenet.data.raster import Raster

__all__ = ["read_picture"]

_PAGES_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's grid of unit spacing, told in RAS


def read_picture(path: str) -> Raster:
    """A picture in row-major order, upright; a TIFF of several pages as a volume (C, X, Y, pages)."""
    with Image.open(path) as picture:
        count = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
        deep = _is_deep_colour(picture)
        _check_pages(picture, count, os.path.getsize(path))
        pages = []
        for index in range(count):
            picture.seek(index)
            pages.append(_decode(picture))
    shapes = sorted({(page.height, page.width, len(page.getbands())) for page in pages})
    if len(shapes) > 1:
        raise ValueError(f"its {count} pages must have one size and one colour mode, got {shapes}")
    pixels = np.stack([np.asarray(page, dtype=np.float32).reshape(shapes[0]) for page in pages])
    if deep:  # decoded above all the same: unlike Pillow, ITK does not complain about missing pages
        pixels = itk.array_from_image(itk_image(path)).reshape(*pixels.shape[:3], -1)
    has_alpha = pages[0].mode in ("LA", "RGBA")
    if count == 1:
        return Raster(pixels[0].transpose(2, 0, 1), np.eye(4), has_geometry=False, has_alpha=has_alpha)
    return Raster(pixels.transpose(3, 2, 1, 0), _PAGES_AFFINE, has_geometry=True, has_alpha=has_alpha)


def _check_pages(picture: ImageFile.ImageFile, count: int, stored: int) -> None:
    """Refuses, by `check_claim`, pages that the bytes of the file cannot hold."""
    shapes = []
    for index in range(count):
        picture.seek(index)
        shapes.append((picture.height, picture.width, len(picture.getbands())))
    raw = picture.format == "BMP" or picture.info.get("compression") == "raw"
    may_be_bits = picture.format != "JPEG" and any(shape[2] == 1 for shape in shapes)
    # the codecs of TIFF and JPEG are taken to be as good as that of PNG
    largest = max(shapes, key=math.prod)
    check_claim((count, *largest), 1 / 8 if may_be_bits else 1, stored, 1 if raw else DEFLATE)
    picture.seek(0)


def _is_deep_colour(picture: ImageFile.ImageFile) -> bool:
    """Whether the file holds 16-bit colours, which Pillow would reduce to 8 bits without a word.

    Only where the picture stands upright: what reads them instead does not know the EXIF orientation.
    """
    deep = re.search(r"(RGB|LA)[AX]?;16", str(picture.tile)) is not None  # before getexif, which may empty `tile`
    return deep and picture.getexif().get(0x0112, 1) == 1


def _decode(page: Image.Image) -> Image.Image:
    page = ImageOps.exif_transpose(page)
    if page.mode == "1":
        return page.convert("L")
    if page.mode == "PA" or (page.mode == "P" and "transparency" in page.info):
        return page.convert("RGBA")
    if page.mode in ("P", "CMYK", "YCbCr", "HSV"):
        return page.convert("RGB")
    if page.mode not in ("L", "LA", "RGB", "RGBA", "F") and not page.mode.startswith("I"):
        raise ValueError(f"the colour mode {page.mode} is not read, expected grey, RGB, CMYK or a palette")
    return page
