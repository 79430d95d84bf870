"""TIFF files of cameras, scanners and microscopes, read by tifffile."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import threading
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
from PIL import Image, UnidentifiedImageError

from monai_fusenet.data.blocks import shrunk
from monai_fusenet.data.claims import DEFLATE, check_claim
from monai_fusenet.data.raster import Raster
from monai_fusenet.data.tiff_colours import (
    JPEGS,
    PALETTE,
    WHITE_IS_ZERO,
    YCBCR,
    may_be_inverted_labels,
    through_palettes,
    with_colours,
)
from monai_fusenet.data.tiff_parts import Plan, level_of, plan_of, read_parts

if TYPE_CHECKING:  # loading it takes longer than reading a small picture; most folders hold no TIFF
    from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

__all__ = ["is_tiff", "read_tiff", "upright"]

_MAGIC = {  # first four bytes: byte order, and whether it is a BigTIFF
    b"II*\0": ("little", False),
    b"MM\0*": ("big", False),
    b"II+\0": ("little", True),
    b"MM\0+": ("big", True),
}
_PAGES_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's grid of unit spacing, told in RAS
_DEEP = "ZQI"  # axes along which pages are slices: z, and pages of which the file does not say what they are
_AXES = {"T": "time", "R": "repetitions", "H": "lifetime", "E": "excitation", "A": "angle", "P": "phase", "M": "mosaic"}
_MOST_PAGES = 2**16
_FEWEST_TAGS = 3  # width, height, and where the values are
_TURNED = (5, 6, 7, 8)  # by Orientation: columns are stored as rows
_SLIDES = ("avs", "bif", "ndpi", "philips", "qpi", "scn", "svs")  # beside the slide they hold its label and thumbnails
_LAB = (8, 9, 10)
_RAW, _CCITT, _LZW, _PACKBITS, _DEFLATES, _ZSTD_LZMA = 1, (2, 3, 4), 5, 32773, (8, 32946), (50000, 34926, 34925)
_JPEG = 7
_JPEG_2000, _PNG, _WEBP = (33005, 34712), 34933, (50001, 34927)
_PICTURES = (*JPEGS, *_JPEG_2000, _PNG, *_WEBP)  # their strips are pictures, which may be larger than the page
_READ = (_RAW, *_CCITT, _LZW, _PACKBITS, *_DEFLATES, *_ZSTD_LZMA, *_PICTURES)
_MORE_THAN_DEFLATE = 2**20  # what a byte of zstd and of pictures may hold; memory bounds what they unpack to


def is_tiff(path: str) -> bool:
    """Whether a file begins like a TIFF or BigTIFF, whatever its suffix."""
    with open(path, "rb") as file:
        return file.read(4) in _MAGIC


def read_tiff(path: str, nearest: bool = False) -> Raster:
    """One image of a TIFF, upright: a picture (C, H, W), or a volume (C, X, Y, slices) of unit spacing.

    - Pages are channels, z or time if OME-XML, ImageJ or tifffile say so; otherwise they are slices.
    - Values do not change, with these exceptions: one bit becomes 0 and 255, palettes, YCbCr and CMYK become RGB,
      colours that were multiplied by their transparency are divided by it.
    - Where white is zero, values are mirrored: within what their bits can hold, and within the image's own least and
      greatest value where they are signed or floating-point, which have no white of their own.
    - Of a pyramid the full resolution is read; reduced images and transparency masks beside it are left out.
    - A picture of more than `LARGEST_PICTURE` pixels is read in parts, strip by strip or tile by tile, into a smaller
      working copy: means of blocks, see `block_of`. A level of a pyramid takes the place of the full resolution
      where it is not smaller than that copy, and shows the same.

    Args:
        path: the file.
        nearest: of a large picture, take the middle pixel of each block of the full resolution, as labels need it.

    Raises:
        ValueError: if it holds more than one image or volume (several times, sizes, files), complex values or colours
            of another kind; if pages, strips or tiles are missing, or claim more than the file or memory can hold.
    """
    from tifffile import TiffFile

    headers = _page_places(path)
    with _quiet(), TiffFile(path) as tiff:
        pages, axes, series = _plan(tiff)
        page: Any = pages[0].keyframe  # what all pages have in common
        _check_kind(page)
        shape = series.shape if series else (len(pages), *page.shape)
        stored = os.path.getsize(path)
        parts = plan_of(pages, shape, axes, nearest)
        _check_claims(page, shape, stored, parts)
        _check_places(tiff, pages, headers, series.nbytes if series else 0, stored)
        if parts:
            level = level_of(parts, tiff.series)
            if level:
                small: Any = level.pages[0].keyframe
                _check_claims(small, level.shape, stored, level)
                _check_places(tiff, level.pages, headers, 0, stored)
            pixels, shape = read_parts(parts, level), parts.kept
        else:
            pixels = series.asarray(maxworkers=1) if series else np.stack([one.asarray(maxworkers=1) for one in pages])
        if pixels.shape != shape:
            raise ValueError(f"its description claims values of shape {shape}, but its pages hold {pixels.shape}")
        indices = None
        if page.photometric == PALETTE:
            indices, pixels = pixels, through_palettes(pixels, pages)
            indices, _ = _arranged(indices, axes, page)
            axes += "S"
        if series and series.kind in ("shaped", "ome") and pixels.dtype == bool:
            pixels = pixels ^ (page.photometric == WHITE_IS_ZERO)  # tifffile's own way to store an array of truths
        pixels, has_alpha = _arranged(pixels, axes, page)
        labels = pixels if may_be_inverted_labels(pixels, page, tiff.is_imagej) else None
    raster = _raster(with_colours(pixels, page, has_alpha), indices, page, has_alpha, labels)
    if parts:
        sides = parts.sides[::-1] if page.tags.valueof(274, 1) in _TURNED else parts.sides
        return raster._replace(block=parts.block, file_shape=sides)
    return shrunk(raster, nearest)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what tifffile logs of a file off stderr: what matters of it is checked here."""
    thread = threading.get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("tifffile")
    logger.addFilter(is_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(is_elsewhere)


def _page_places(path: str) -> list[int]:
    """Where the headers of the pages begin, in the order of the bytes.

    Raises:
        ValueError: where the list of pages breaks off or goes in a circle, after which tifffile would keep the pages
            before; where it is too long to be read in a reasonable time.
    """
    size = os.path.getsize(path)
    seen: set[int] = set()
    with open(path, "rb") as file:
        order, big = _MAGIC[file.read(4)]
        count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)

        def number(file: BinaryIO, length: int) -> int:
            return int.from_bytes(file.read(length), order)  # type: ignore[arg-type]

        file.seek(8 if big else 4)
        offset = number(file, offset_bytes)
        while offset:
            if offset in seen:
                raise ValueError(f"its list of pages goes in a circle after page {len(seen)}")
            if len(seen) == _MOST_PAGES:
                raise ValueError(f"it holds more than {_MOST_PAGES} pages: save parts of it as files of their own")
            file.seek(min(offset, size))
            entries = number(file, count_bytes)
            end = offset + count_bytes + entries * entry_bytes
            if end + offset_bytes > size or entries < _FEWEST_TAGS:
                raise ValueError(f"truncated or damaged: page {len(seen) + 1} is not in its {size} bytes")
            seen.add(offset)
            file.seek(end)
            offset = number(file, offset_bytes)
    if not seen:
        raise ValueError("it holds no page")
    return sorted(seen)


def _plan(tiff: TiffFile) -> tuple[list[TiffPage | TiffFrame], str, TiffPageSeries | None]:
    """The pages of the one image, the axes of their values, and the series that puts them in order.

    Without a description of its pages a file has no series: its pages are stacked.
    """
    if tiff.is_ome:
        _check_ome(tiff)
    series = list(tiff.series)
    kind = series[0].kind if series else "generic"
    if kind == "generic":
        if tiff.is_ome or tiff.is_imagej:
            raise ValueError("its description as OME-XML or ImageJ does not fit its pages: are some missing?")
        pages = _own_pages(tiff)
        return pages, "I" + pages[0].axes, None
    if kind in _SLIDES:
        series = [max(series, key=lambda one: one.size)]
    full = [one for one in series if not one.keyframe.is_reduced and not one.keyframe.is_mask] or series
    if len(full) > 1:
        shapes = ", ".join(f"{one.axes} {one.shape}" for one in full[:4])
        raise ValueError(f"it holds {len(full)} images, expected one: save each as a file of its own ({shapes})")
    pages = [page for page in full[0] if page is not None]
    if len(pages) < len(full[0]):
        raise ValueError(f"{len(full[0]) - len(pages)} of its {len(full[0])} pages are missing")
    return pages, full[0].axes, full[0]


def _own_pages(tiff: TiffFile) -> list[TiffPage | TiffFrame]:
    """The pages of full size, which must be alike."""
    found = [tiff.pages[index].aspage() for index in range(len(tiff.pages))]
    pages = [page for page in found if not page.is_reduced and not page.is_mask] or found
    shapes = sorted({(page.imagelength, page.imagewidth, page.samplesperpixel) for page in pages})
    kinds = {(page.dtype, page.photometric, page.bitspersample, page.axes) for page in pages}
    if len(shapes) > 1 or len(kinds) > 1:
        raise ValueError(f"its {len(pages)} pages must have one size and one colour mode, got {shapes}")
    return [*pages]


def _check_ome(tiff: TiffFile) -> None:
    """Refuses OME-XML that names planes which the file does not hold, before tifffile makes room for them."""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError as error:
        raise ValueError(f"its OME-XML is damaged: {error}") from None
    planes = len(tiff.pages) * tiff.pages.first.samplesperpixel
    for element in root.iter():
        numbers = {name: int(text) for name, text in element.attrib.items() if re.fullmatch(r"\d{1,18}", text)}
        counted = [numbers.get(name, 1) for name in ("SizeC", "SizeZ", "SizeT")]
        named = [value for name, value in numbers.items() if re.fullmatch("IFD|NumPlanes|PlaneCount|First[A-Z]", name)]
        most = max([math.prod(counted), *named])
        if most > planes:
            raise ValueError(f"its OME-XML claims {most} planes, but it holds {planes}: are some in other files?")
    own = root.get("UUID")
    names = {one.get("FileName") for one in root.iter() if one.tag.endswith("UUID") and one.text != own}
    if len(names) > 1 or (names and own):
        raise ValueError("its OME-XML names planes in other files: save all in one file")


def _check_kind(page: TiffPage) -> None:
    if page.compression not in _READ:
        name = getattr(page.compression, "name", page.compression)
        raise ValueError(f"the compression {name} is not read, expected deflate, LZW, zstd, JPEG, JPEG 2000 or none")
    if page.photometric not in range(7):
        mode = "LAB" if page.photometric in _LAB else getattr(page.photometric, "name", str(page.photometric))
        raise ValueError(f"the colour mode {mode} is not read, expected grey, RGB, CMYK or a palette")
    if page.dtype is None:
        raise ValueError(f"samples of {page.bitspersample} bits and format {page.sampleformat} are not read")
    bits = max(page.bitspersample) if isinstance(page.bitspersample, tuple) else page.bitspersample
    if page.dtype.kind in "ui" and 16 < bits < 32:
        raise ValueError(f"integers of {bits} bits are not read, expected up to 16, 32 or 64")  # tifffile misreads them
    if page.photometric == YCBCR and page.compression not in JPEGS and tuple(page.subsampling or (1, 1)) != (1, 1):
        raise ValueError("YCbCr of subsampled colours is read as JPEG only: save it as RGB")
    if page.dtype.kind == "c":
        raise ValueError("its values are complex, expected real ones")


def _check_claims(page: TiffPage, shape: tuple[int, ...], stored: int, parts: Plan | None) -> None:
    """Refuses, by `check_claim`, values that the file cannot hold; and tiles, which may be larger than the image."""
    packing = DEFLATE
    if page.compression == _RAW:
        packing = 1
    elif page.compression in (*_ZSTD_LZMA, *_JPEG_2000, _PNG, *_WEBP):
        packing = _MORE_THAN_DEFLATE
    bits = max(page.bitspersample) if isinstance(page.bitspersample, tuple) else page.bitspersample
    check_claim(shape, bits / 8, stored, packing, math.prod(parts.kept) if parts else None)
    if parts and not page.is_contiguous and not page.is_tiled:  # a strip may hold all rows
        check_claim((page.rowsperstrip, page.imagewidth, page.samplesperpixel), bits / 8, stored, packing)
    if page.is_tiled:
        check_claim((page.tiledepth, page.tilelength, page.tilewidth, page.samplesperpixel), bits / 8, stored, packing)


def _check_places(
    tiff: TiffFile, pages: list[TiffPage | TiffFrame], headers: list[int], in_series: int, stored: int
) -> None:
    """Refuses strips and tiles that the file does not hold: tifffile would take zeros, or other bytes, for them.

    Args:
        tiff: the file.
        pages: of the image.
        headers: where those of all pages begin, sorted.
        in_series: bytes of all values, which may follow each other behind the first page.
        stored: bytes of the file.
    """
    page: Any = pages[0].keyframe
    for number, one in enumerate(pages, start=1):
        places, wanted = list(zip(one.dataoffsets, one.databytecounts, strict=False)), math.prod(page.chunked)
        if page.is_contiguous:
            length = in_series if len(pages) == 1 and in_series > page.nbytes else page.nbytes
            places, wanted = [(one.dataoffsets[0], length)] if one.dataoffsets else [], 1
            places = [
                (start, count)
                for start, count in places
                if bisect(headers, start - 1) == bisect(headers, start + count - 1)
            ]
        inside = [(start, count) for start, count in places[:wanted] if 0 < start <= start + count - 1 < stored]
        if page.compression in _PICTURES and page.jpegheader is None:
            inside = [(start, count) for start, count in inside if _is_whole_picture(tiff, page, start, count)]
        if len(inside) < wanted:
            raise ValueError(
                f"image file is truncated: {wanted - len(inside)} of {wanted} strips or tiles of page {number} are "
                "missing"
            )


def _is_whole_picture(tiff: TiffFile, page: TiffPage, start: int, count: int) -> bool:
    """Whether a strip or tile ends as its codec ends it, as far as decoders do not look at that themselves.

    Raises:
        ValueError: if it claims to be larger than its place in the page: a decoder would make room for that.
    """
    tiff.filehandle.seek(start)
    stored = tiff.filehandle.read(count)
    try:
        with Image.open(io.BytesIO(stored)) as picture:
            size = picture.size
    except UnidentifiedImageError:  # 12 bits, or the old kind of JPEG, which do not unpack to much more
        if page.compression not in JPEGS:
            return False
        size = (0, 0)
    place = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    if size[0] > place[0] or size[1] > place[1]:
        raise ValueError(f"a strip or tile of {place[0]} x {place[1]} pixels holds a picture of {size[0]} x {size[1]}")
    # ITU-R T.81, B.1.1.3; libjpeg makes up what it misses
    return page.compression != _JPEG or b"\xff\xd9" in stored[-16:]


def _arranged(pixels: np.ndarray, axes: str, page: TiffPage) -> tuple[np.ndarray, bool]:
    """Values as (channels, slices, rows, columns), upright, and whether the last channel is transparency."""
    kept = [place for place, axis in enumerate(axes) if axis in "YX" or pixels.shape[place] > 1]
    pixels, axes = pixels.reshape([pixels.shape[place] for place in kept]), "".join(axes[place] for place in kept)
    sizes = dict(zip(axes, pixels.shape, strict=True))
    long = [axis for axis in axes if axis not in "YXCS"]
    other = [axis for axis in long if axis not in _DEEP]
    if other:
        axis = other[0]
        name = f"{axis} ({_AXES[axis]})" if axis in _AXES else axis
        remedy = "; in ImageJ, Image > Properties turns frames into slices" if axis == "T" else ""
        raise ValueError(
            f"its axis {name} has {sizes[axis]} steps, expected one image or volume: save each step as a file of its "
            f"own{remedy}"
        )
    if len(long) > 1 or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
        raise ValueError(
            f"its axes {axes} of shape {pixels.shape} are not known: write it with axes such as CZYX in its description"
        )
    pixels = pixels.transpose([axes.index(axis) for axis in "C" + _DEEP + "SYX" if axis in sizes])
    samples, channels = sizes.get("S", 1), sizes.get("C", 1)
    rows, columns = sizes["Y"], sizes["X"]
    pixels = pixels.reshape(channels, -1, samples, rows, columns).swapaxes(1, 2)
    alphas = [len(page.extrasamples) - place for place, kind in enumerate(page.extrasamples) if kind in (1, 2)]
    has_alpha = bool(alphas) and samples > 1
    if has_alpha:  # last, and once; the samples of several channels share none
        alpha = samples - alphas[0]
        rest = np.delete(pixels, alpha, axis=1)
        pixels = rest if channels > 1 else np.concatenate([rest, pixels[:, alpha : alpha + 1]], axis=1)
        has_alpha = channels == 1
    return upright(pixels.reshape(-1, *pixels.shape[2:]), page.tags.valueof(274, 1)), has_alpha


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns values (..., rows, columns) upright by their orientation, a number of TIFF and EXIF (tag 274)."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    return pixels


def _raster(
    pixels: np.ndarray, indices: np.ndarray | None, page: TiffPage, has_alpha: bool, labels: np.ndarray | None
) -> Raster:
    """What was read, (C, slices, rows, columns) each, in the order of a picture or a volume."""
    is_picture = pixels.shape[1] == 1
    affine = np.eye(4) if is_picture else _PAGES_AFFINE

    def placed(values: np.ndarray) -> np.ndarray:
        return values[:, 0] if is_picture else values.transpose(0, 3, 2, 1)

    return Raster(
        placed(pixels),
        affine,
        not is_picture,
        has_alpha,
        indices=None if indices is None else placed(indices),
        lossy=page.compression in JPEGS,
        labels=None if labels is None else placed(labels),
    )
