"""A large picture of a TIFF, read strip by strip or tile by tile into a smaller working copy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monai_fusenet.data.blocks import Blocks, block_of
from monai_fusenet.data.tiff_colours import BLACK_IS_ZERO, JPEGS, RGB, WHITE_IS_ZERO, YCBCR

if TYPE_CHECKING:
    from tifffile import TiffFrame, TiffPage, TiffPageSeries

__all__ = ["Plan", "level_of", "plan_of", "read_parts"]

PART_BYTES = 2**24  # of uncompressed rows that are read at once
PREMULTIPLIED = 1  # kind of an extra sample
FLIPPED = {2: (False, True), 3: (True, True), 4: (True, False), 6: (True, False), 7: (True, True), 8: (False, True)}
PROBES = 12  # parts of the full resolution that a level of a pyramid is compared with
ALIKE = 0.03  # of the range of values: how far a level that shows the same may be from it in the mean


class Plan(NamedTuple):
    """How a large picture is read.

    Attributes:
        pages: that hold it, one behind the other.
        shape: of its values, in the order of the pages.
        axes: their names: Y, X and channels, and others of one step.
        block: the side of the blocks of pixels of which one is kept.
        nearest: whether that is the middle pixel; else it is the mean.
    """

    pages: list[TiffPage | TiffFrame]
    shape: tuple[int, ...]
    axes: str
    block: int
    nearest: bool

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns as they are stored."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of what is kept."""
        sides = zip(self.shape, self.axes, strict=True)
        return tuple(-(-side // self.block) if axis in "YX" else side for side, axis in sides)


def plan_of(pages: list[TiffPage | TiffFrame], shape: tuple[int, ...], axes: str, nearest: bool = False) -> Plan | None:
    """The plan for the content of a file; `None` if it is read as a whole.

    These are pictures that are not large, and pictures without a mean of their stored values, such as palettes. The
    latter must fit into memory.

    Args:
        pages: that hold it.
        shape: of its values.
        axes: their names.
        nearest: see `Plan`.
    """
    page: Any = pages[0].keyframe
    sizes = dict(zip(axes, shape, strict=True))
    is_picture = len(sizes) == len(shape) and all(size == 1 for axis, size in sizes.items() if axis not in "YXCS")
    if not is_picture or page.shaped[1] > 1 or (sizes.get("Y"), sizes.get("X")) != page.shaped[2:4]:
        return None
    block = block_of(page.shaped[2:4])
    if block == 1 or len(pages) * math.prod(page.shaped) != math.prod(shape):
        return None
    if page.is_contiguous and (page.fillorder != 1 or page.predictor != 1):
        return None
    photometric = page.photometric
    are_values = photometric in (BLACK_IS_ZERO, RGB) or (photometric == YCBCR and page.compression in JPEGS)
    are_values |= photometric == WHITE_IS_ZERO and page.dtype.kind == "u"
    if not nearest and (not are_values or page.dtype == bool or PREMULTIPLIED in page.extrasamples):
        return None
    return Plan(pages, shape, axes, block, nearest)


def level_of(plan: Plan, series: Iterable[TiffPageSeries]) -> Plan | None:
    """The plan for the smallest level of a pyramid that has as many pixels as are kept at least; `None` without one.

    Args:
        plan: for the full resolution.
        series: all series of the file; one of them may have the pages of the plan and levels beside.
    """
    kind, offset = _kind_of(plan.pages[0]), plan.pages[0].offset
    own = [one for one in series if one.keyframe.offset == offset]
    if plan.nearest or not own or kind["orientation"] != 1:
        return None
    for level in reversed(own[0].levels[1:]):
        pages = [page for page in level if page is not None]
        if len(pages) != len(plan.pages) or any(_kind_of(page) != kind for page in pages):
            continue
        found: Any = level.keyframe
        sides = dict(zip("YX", found.shaped[2:4], strict=True))
        shape = tuple(sides.get(axis, side) for axis, side in zip(plan.axes, plan.shape, strict=True))
        small = plan._replace(pages=pages, shape=shape)
        ratio = max(1, round(plan.sides[0] / small.sides[0]))
        is_scaled = all(
            own in (side // ratio, -(-side // ratio)) for side, own in zip(plan.sides, small.sides, strict=True)
        )
        if is_scaled and ratio > 1 and plan.block % ratio == 0:
            return small._replace(block=plan.block // ratio)
    return None


def _kind_of(page: TiffPage | TiffFrame) -> dict[str, Any]:
    """What the levels of a pyramid have in common."""
    keyframe: Any = page.keyframe
    names = ("dtype", "photometric", "compression", "planarconfig", "extrasamples", "fillorder", "predictor")
    planes, depth, _, _, samples = keyframe.shaped
    return {
        **{name: getattr(keyframe, name) for name in names},
        "orientation": keyframe.tags.valueof(274, 1),
        "channels": (planes, depth, samples),
    }


def read_parts(plan: Plan, level: Plan | None = None) -> np.ndarray:
    """The kept values, in the shape `plan.kept`: means are float32, middle pixels keep their type.

    Args:
        plan: for the full resolution.
        level: the plan for a level of a pyramid, which is read instead if it shows the same.
    """
    arrays = []
    for number, page in enumerate(plan.pages):
        copy = None if level is None else _like(_read(level.pages[number], level), plan)
        if copy is None or not _shows(copy, page, plan.block):
            copy, level = _read(page, plan), None
        keyframe: Any = page.keyframe
        planes, _, _, _, samples = keyframe.shaped
        arrays.append(copy.reshape(planes, samples, *copy.shape[1:]).transpose(0, 2, 3, 1))
    return np.stack(arrays).reshape(plan.kept)


def _read(page: TiffPage | TiffFrame, plan: Plan) -> np.ndarray:
    keyframe: Any = page.keyframe
    dtype = keyframe.dtype if plan.nearest else None
    flipped = FLIPPED.get(keyframe.tags.valueof(274, 1), (False, False))
    blocks = Blocks(keyframe.shaped[0] * keyframe.shaped[4], plan.sides, plan.block, dtype, flipped)
    for index in range(_count(keyframe)):
        blocks.add(*_part(page, index))
    return blocks.values()


def _like(copy: np.ndarray, plan: Plan) -> np.ndarray:
    """A copy (C, rows, columns) of a level, which may lack the last row and column where the sides are odd."""
    missing = [-(-side // plan.block) - own for side, own in zip(plan.sides, copy.shape[1:], strict=True)]
    return np.pad(copy, [(0, 0), *((0, count) for count in missing)], mode="edge") if any(missing) else copy


def _shows(copy: np.ndarray, page: TiffPage | TiffFrame, block: int) -> bool:
    """Whether a copy (C, rows, columns) holds about the means of some parts of a page."""
    count = _count(page.keyframe)
    probes = min(PROBES, count)
    differences = []
    for probe in range(probes):
        part, channel, *start = _part(page, int((probe + 0.5) * count / probes))
        first = [-(-own // block) for own in start]  # of the blocks that lie in this part as a whole
        blocks = [(own + side) // block - one for own, side, one in zip(start, part.shape[1:], first, strict=True)]
        if min(blocks) > 0:
            top, left = (one * block - own for one, own in zip(first, start, strict=True))
            inner = part[:, top : top + blocks[0] * block, left : left + blocks[1] * block]
            means = inner.reshape(len(part), blocks[0], block, blocks[1], block).mean(axis=(2, 4))
            there = copy[channel : channel + len(part), first[0] :, first[1] :][:, : blocks[0], : blocks[1]]
            differences.append(float(np.abs(there - means).mean()))
    return bool(differences) and float(np.mean(differences)) <= ALIKE * float(np.ptp(copy))


def _rows_at_once(keyframe: Any) -> int:
    """Rows of a page without compression, whose rows follow each other."""
    _, _, _, columns, samples = keyframe.shaped
    return max(1, PART_BYTES // (columns * samples * keyframe.dtype.itemsize))


def _count(keyframe: Any) -> int:
    """In how many parts a page is read."""
    if keyframe.is_contiguous:
        return keyframe.shaped[0] * -(-keyframe.shaped[2] // _rows_at_once(keyframe))
    return math.prod(keyframe.chunked)


def _part(page: TiffPage | TiffFrame, index: int) -> tuple[np.ndarray, int, int, int]:
    """A part (C, h, w) of a page, its first channel, first row and first column."""
    keyframe: Any = page.keyframe
    file = page.parent.filehandle
    planes, _, rows, columns, samples = keyframe.shaped
    if keyframe.is_contiguous:
        at_once = _rows_at_once(keyframe)
        plane, band = divmod(index, _count(keyframe) // planes)
        row, dtype = band * at_once, np.dtype(page.parent.byteorder + keyframe.dtype.char)
        count = min(at_once, rows - row)
        file.seek(page.dataoffsets[0] + (plane * rows + row) * columns * samples * dtype.itemsize)
        values = np.frombuffer(file.read(count * columns * samples * dtype.itemsize), dtype)
        part, column = values.reshape(count, columns, samples), 0
    else:
        file.seek(page.dataoffsets[index])
        stored = file.read(page.databytecounts[index])
        is_jpeg = keyframe.compression in JPEGS
        tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader} if is_jpeg else {}
        decoded, (plane, _, row, column, _), _ = keyframe.decode(stored, index, **tables)
        part = decoded[0, : rows - row, : columns - column]
    return np.ascontiguousarray(part.transpose(2, 0, 1)), plane * samples, row, column
