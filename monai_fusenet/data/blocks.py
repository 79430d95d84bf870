"""Large pictures as smaller working copies: the mean, or the middle pixel, of each square block of pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from monai_fusenet.data.raster import Raster

__all__ = ["LARGEST_PICTURE", "Blocks", "block_of", "in_middles", "repeated_tiles", "shrunk"]

LARGEST_PICTURE = 2**26  # pixels, 67 108 864: of a larger picture memory holds a copy of at most so many
BAND_VALUES = 2**21  # that are added up together


def block_of(shape: Sequence[int]) -> int:
    """The side of the blocks of a picture, in pixels: a power of two, as in pyramids; 1 if the picture is not large.

    Args:
        shape: its rows and columns.
    """
    block = 1
    while math.prod(_reduced(shape, block)) > LARGEST_PICTURE:
        block *= 2
    return block


def _reduced(shape: Sequence[int], block: int) -> tuple[int, ...]:
    return tuple(-(-side // block) for side in shape)


class Blocks:
    """A working copy that is made part by part, with one value for each block of a picture.

    Blocks begin at the first row and column; the last ones may be smaller than the others.

    Args:
        channels: of the picture.
        shape: its rows and columns.
        block: the side of a block.
        dtype: type of middle pixels, which are kept unchanged; `None`: the mean of each block, float32.
        flipped: whether rows, and whether columns, are stored in reverse order; blocks begin at the first row and
            column as seen.
    """

    def __init__(
        self,
        channels: int,
        shape: Sequence[int],
        block: int,
        dtype: np.dtype | None = None,
        flipped: tuple[bool, bool] = (False, False),
    ) -> None:
        self.block = block
        self._are_means = dtype is None
        self._values = np.zeros((channels, *_reduced(shape, block)), np.float32 if dtype is None else dtype)
        self._before, self._lengths, self._middles = [], [], []
        for side, is_flipped in zip(shape, flipped, strict=True):
            starts = np.arange(0, side, block)
            lengths = np.minimum(block, side - starts)
            middles = np.minimum(starts + block // 2, side - 1)
            self._before.append(-side % block if is_flipped else 0)  # pixels that the first block lacks
            self._lengths.append(lengths[::-1] if is_flipped else lengths)
            self._middles.append((side - 1 - middles)[::-1] if is_flipped else middles)

    def values(self) -> np.ndarray:
        """The copy (C, *blocks), after all parts were added; nothing may be added then."""
        if self._are_means:
            self._values /= np.multiply.outer(*self._lengths).astype(np.float32)
        return self._values

    def add(self, part: np.ndarray, channel: int = 0, row: int = 0, column: int = 0) -> None:
        """Takes a part (C, h, w) of the picture; each pixel must come once.

        Args:
            part: its values.
            channel: its first channel.
            row: its first row in the picture.
            column: its first column.
        """
        if not self._are_means:
            self._add_middles(part, channel, row, column)
            return
        rows = max(1, BAND_VALUES // max(1, part.shape[0] * part.shape[2] * self.block)) * self.block
        for first in range(0, part.shape[1], rows):
            self._add_band(part[:, first : first + rows], channel, row + first, column)

    def _add_middles(self, part: np.ndarray, channel: int, row: int, column: int) -> None:
        place, taken = [], []
        for middles, start, length in zip(self._middles, (row, column), part.shape[1:], strict=True):
            first, last = np.searchsorted(middles, (start, start + length))
            place.append(slice(first, last))
            taken.append(middles[first:last] - start)
        self._values[(slice(channel, channel + len(part)), *place)] = part[:, taken[0]][:, :, taken[1]]

    def _add_band(self, band: np.ndarray, channel: int, row: int, column: int) -> None:
        place: list[slice] = [slice(channel, channel + len(band))]
        for axis, start in enumerate((row, column)):
            begin = start + self._before[axis]
            first, last = begin // self.block, (begin + band.shape[axis + 1] - 1) // self.block
            edges = np.maximum(np.arange(first, last + 1) * self.block - begin, 0)
            band = np.add.reduceat(band, edges, axis=axis + 1, dtype=np.float64)
            place.append(slice(first, last + 1))
        self._values[tuple(place)] += band


def shrunk(raster: Raster, nearest: bool = False) -> Raster:
    """A raster; for a large picture, its working copy.

    Args:
        raster: the raster that was read.
        nearest: take the middle pixel of each block instead of the mean, as labels need.
    """
    shape = raster.pixels.shape[1:]
    block = 1 if raster.has_geometry or len(shape) != 2 else block_of(shape)
    if block == 1:
        return raster

    def reduced(values: Any) -> Any:
        if values is None:
            return None
        blocks = Blocks(len(values), shape, block, values.dtype if nearest else None)
        blocks.add(values)
        return blocks.values()

    if nearest:
        raster = raster._replace(indices=reduced(raster.indices), labels=reduced(raster.labels))
    return raster._replace(pixels=reduced(raster.pixels), block=block, file_shape=shape)


def in_middles(labels: np.ndarray, block: int) -> np.ndarray:
    """The middle pixel of each block of labels (C, rows, columns)."""
    blocks = Blocks(len(labels), labels.shape[1:], block, labels.dtype)
    blocks.add(labels)
    return blocks.values()


def repeated_tiles(labels: np.ndarray, shape: Sequence[int], block: int, tile: int) -> Iterator[np.ndarray]:
    """The labels of a working copy at the size of the picture, tile by tile, row by row.

    Args:
        labels: (rows, columns) of the copy.
        shape: rows and columns of the picture.
        block: the side of a block.
        tile: the side of the tiles; those at the end are smaller.
    """
    for row in range(0, shape[0], tile):
        rows = np.arange(row, min(row + tile, shape[0])) // block
        for column in range(0, shape[1], tile):
            columns = np.arange(column, min(column + tile, shape[1])) // block
            yield labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][rows - rows[0]][:, columns - columns[0]]
