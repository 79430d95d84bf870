"""The meaning of the values of a TIFF: palettes, white as zero, colours of printers and of video."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tifffile import TiffFrame, TiffPage

__all__ = [
    "BLACK_IS_ZERO",
    "JPEGS",
    "PALETTE",
    "RGB",
    "WHITE_IS_ZERO",
    "YCBCR",
    "may_be_inverted_labels",
    "through_palettes",
    "with_colours",
]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, _MASK, _CMYK, YCBCR = range(7)
JPEGS = (6, 7)


def through_palettes(pixels: np.ndarray, pages: list[TiffPage | TiffFrame]) -> np.ndarray:
    """Replaces palette indices (*shape) by the colours (*shape, 3) of each page, 8 bits."""
    per_page = pixels.reshape(len(pages), -1)
    colours = np.empty((*per_page.shape, 3), np.uint8)
    for index, page in enumerate(pages):
        palette = page.aspage().colormap
        if palette is None or palette.shape[1] <= per_page[index].max(initial=0):
            raise ValueError("it has no colour for some of its values")
        if palette.max() > 255:  # 16 bits a colour, as the format says; some programs write 8
            palette = palette // 256
        colours[index] = palette.T[per_page[index]]
    return colours.reshape(*pixels.shape, 3)


def with_colours(pixels: np.ndarray, page: TiffPage, has_alpha: bool) -> np.ndarray:
    """Values (C, slices, rows, columns) as grey or RGB, with the other channels."""
    photometric, bits = page.photometric, page.bitspersample
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
        bits = 8
    count = len(pixels) - has_alpha
    colours, rest = pixels[:count], pixels[count:]
    if photometric == WHITE_IS_ZERO:
        stored = page.dtype or pixels.dtype  # means of whole numbers are none
        if "u" in (pixels.dtype.kind, stored.kind):
            colours = pixels.dtype.type(2**bits - 1) - colours
        else:
            finite = colours[np.isfinite(colours)]
            if finite.size:
                colours = finite.min() + (finite.max() - colours)
    elif photometric == YCBCR and page.compression not in JPEGS:
        colours = _rgb_of_ycbcr(colours)
    elif photometric == _CMYK:
        colours = _rgb_of_cmyk(colours)
    if has_alpha and page.extrasamples and 1 in page.extrasamples and pixels.dtype.kind == "u":
        share = rest / pixels.dtype.type(2**bits - 1)
        divided = np.divide(colours, share, out=np.zeros(colours.shape), where=share > 0)
        colours = np.minimum(np.rint(divided), 2**bits - 1)
    return np.concatenate([colours, rest])


def may_be_inverted_labels(pixels: np.ndarray, page: TiffPage, is_imagej: bool) -> bool:
    """Whether values where white is zero would count in a mask as they are stored.

    ImageJ stores them like this, in spite of its display. Values of other programs that stay below half of black are
    classes.
    """
    if page.photometric != WHITE_IS_ZERO or pixels.dtype == bool:
        return False
    return is_imagej or (pixels.dtype.kind == "u" and pixels.max() < 2 ** (page.bitspersample - 1))


def _rgb_of_ycbcr(colours: np.ndarray) -> np.ndarray:
    """RGB of YCbCr, both (3, ...) of 8 bits (ITU-R BT.601, the whole range, as TIFF 6.0 has it by default)."""
    if colours.dtype != np.uint8 or len(colours) != 3:
        raise ValueError(f"YCbCr of {len(colours)} samples of type {colours.dtype} is not read, expected 3 of 8 bits")
    luma, blue, red = colours.astype(np.float32)
    blue, red = blue - 128, red - 128
    rgb = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.rint(np.clip(rgb, 0, 255))


def _rgb_of_cmyk(colours: np.ndarray) -> np.ndarray:
    """RGB (3, ...) of ink (4, ...), without a profile: what no ink takes away."""
    if colours.dtype.kind != "u" or len(colours) < 4:
        raise ValueError(f"CMYK of {len(colours)} samples of type {colours.dtype} is not read, expected 4 unsigned")
    white = np.iinfo(colours.dtype).max
    paper = 1 - colours.astype(np.float64) / white
    return np.concatenate([np.rint(white * paper[:3] * paper[3:4]), colours[4:]])
