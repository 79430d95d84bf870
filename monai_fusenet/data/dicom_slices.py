"""Checks whether slices are one volume, and gives their order and geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from monai_fusenet.data.dicom_headers import Plane
from monai_fusenet.data.itk_files import LPS_TO_RAS

__all__ = ["affine_of_slices", "check_volume", "differences", "filled", "has_direction_of", "in_order"]

UNEVEN = 0.25  # parts of the distance between slices that one may lie off, where no grid is exact
ALIKE = 1e-3  # of directions, and of spacings by their size
SAME_SLICE = 0.01  # mm between frames that show segments of one slice
OFF_GRID = 0.1  # parts of a step, or of a mm in a single slice, that a frame of a mask may lie off
MOST_PARTS = 10  # of the smallest gap, tried beyond those that the header tells
MOST_SLICES = 2**12
ONE_PLACE = 0.01  # parts of the largest distance between neighbours


def in_order(planes: Sequence[Plane]) -> list[int]:
    """The order of slices along the product of the axes of the first: indices of `planes`."""
    return np.argsort(_heights(planes), kind="stable").tolist()


def check_volume(ordered: Sequence[Plane]) -> None:
    """Refuses slices that do not form one volume on an even grid.

    Args:
        ordered: at least one slice, see `in_order`.

    Raises:
        ValueError: says which slice is wrong, and what to do.
    """
    _check_alike(ordered)
    if len(ordered) > 1:
        gaps = np.diff(_heights(ordered))
        _check_places(ordered, gaps)
        _check_distances(ordered, gaps)
        _check_line(ordered)


def filled(planes: Sequence[Plane], is_whole: bool = False) -> tuple[list[int], list[Plane]]:
    """The even grid of frames, which may share places and leave out places.

    Its step is the smallest gap between frames. It is a fraction of this gap if the header says that slices are
    thinner, or if not all gaps are multiples of it. A step that is too small does no harm: each frame still has its
    place.

    Args:
        planes: of the frames, in any order.
        is_whole: whether none is left out: the header's thickness, often wrong, does not count.

    Returns:
        The index of each frame on the grid, and the planes of the grid.

    Raises:
        ValueError: if the frames differ in form, or do not lie on an even grid.
    """
    _check_alike(planes)
    heights = _heights(planes)
    lowest, highest = planes[int(np.argmin(heights))], planes[int(np.argmax(heights))]
    heights -= heights.min()
    gaps = np.diff(np.sort(heights))
    gaps = gaps[gaps > SAME_SLICE]
    gap = gaps[gaps < (1 + UNEVEN) * gaps.min()].mean() if gaps.size else 1.0
    told = [_length(lowest, name) for name in ("SpacingBetweenSlices", "SliceThickness")]
    parts = 1 if is_whole else max([1, *(round(gap / length) for length in told if length > SAME_SLICE)])
    positions, way = np.array([plane.position for plane in planes]), highest.position - lowest.position
    for number in range(parts, parts + MOST_PARTS):
        indices = np.rint(heights * number / gap).astype(int)
        count = int(indices.max())
        step = way / count if count else np.zeros(3)
        off = np.linalg.norm(lowest.position + np.outer(indices, step) - positions, axis=1)
        if off.max() <= OFF_GRID * (np.linalg.norm(step) or 1) and count < MOST_SLICES:
            grid = [lowest._replace(position=lowest.position + step * index) for index in range(count + 1)]
            return indices.tolist(), grid
    raise ValueError(
        "its frames lie on no even grid, though frames of empty slices may be left out: save the mask with all frames, "
        "or as NIfTI"
    )


def _length(plane: Plane, name: str) -> float:
    """What a header tells of a length, in mm; 0 where it tells none."""
    try:
        length = float(plane.told.get(name, 0))
    except ValueError:
        return 0.0
    return length if np.isfinite(length) else 0.0


def _heights(planes: Sequence[Plane]) -> np.ndarray:
    normal = np.cross(*planes[0].axes)
    return np.array([plane.position @ normal for plane in planes])


def affine_of_slices(planes: Sequence[Plane], in_plane: np.ndarray) -> np.ndarray:
    """The affine (4, 4) from the indices of a column, a row and a slice to millimetres (RAS).

    The step from slice to slice comes from the positions: it may be oblique, as with a tilted gantry.

    Args:
        planes: in order.
        in_plane: an affine for values that the headers lack: the spacing, and the step of a single slice.
    """
    first, last = planes[0], planes[-1]
    affine = LPS_TO_RAS @ in_plane
    if first.spacing is not None:
        affine[:3, 0], affine[:3, 1] = first.axes[0] * first.spacing[1], first.axes[1] * first.spacing[0]
    if len(planes) > 1:
        affine[:3, 2] = (last.position - first.position) / (len(planes) - 1)
    elif not affine[:3, 2].any():  # GDCM finds no step where all frames lie at one place
        affine[:3, 2] = np.cross(*first.axes) * (abs(_length(first, "SliceThickness")) or 1)
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def differences(plane: Plane, other: Plane) -> list[str]:
    """The differences because of which two planes are not slices of one volume, such as "Rows 512, not 64"."""
    found = [
        f"{name} {value}, not {other.form[name]}" for name, value in plane.form.items() if value != other.form[name]
    ]
    if not has_direction_of(plane, other):
        found.append(f"ImageOrientationPatient {_listed(plane.axes)}, not {_listed(other.axes)}")
    if (plane.spacing is None) != (other.spacing is None) or (
        plane.spacing is not None and other.spacing is not None and not np.allclose(plane.spacing, other.spacing, ALIKE)
    ):
        found.append(f"PixelSpacing {_listed(plane.spacing)}, not {_listed(other.spacing)}")
    return found


def has_direction_of(plane: Plane, other: Plane) -> bool:
    """Whether the rows and the columns of two planes run alike."""
    return bool(np.abs(plane.axes - other.axes).max() <= ALIKE)


def _listed(numbers: np.ndarray | None) -> str:
    return "unknown" if numbers is None else "\\".join(f"{number:.4g}" for number in numbers.ravel())


def _check_alike(planes: Sequence[Plane]) -> None:
    """Refuses slices that differ from what most are like."""
    kinds: list[list[Plane]] = []
    for plane in planes:
        alike = next((kind for kind in kinds if not differences(plane, kind[0])), None)
        if alike is None:
            kinds.append([plane])
        else:
            alike.append(plane)
    if len(kinds) > 1:
        most, *others = sorted(kinds, key=len, reverse=True)
        odd = others[0][0]
        count = sum(map(len, others))
        more = f" ({count} of {len(planes)} slices differ from the others)" if count > 1 else ""
        raise ValueError(
            f"its {odd.name} is no slice of the others: it has {'; '.join(differences(odd, most[0]))}{more}: "
            "give each kind of slice a folder of its own"
        )


def _check_places(ordered: Sequence[Plane], gaps: np.ndarray) -> None:
    """Refuses slices that lie at one place: copies, or those of several volumes."""
    starts = np.flatnonzero(np.concatenate([[True], gaps > ONE_PLACE * gaps.max()]))
    places = [list(group) for group in np.split(np.arange(len(ordered)), starts[1:])]
    if len(places) == len(ordered):
        return
    shared = [[ordered[index] for index in place] for place in places if len(place) > 1]
    copies = [plane for place in shared for plane in place if plane.uid and plane.uid in _repeated(place)]
    if copies:
        raise ValueError(
            f"its {copies[0].name} and {copies[1].name} are copies of one slice (of one SOPInstanceUID): "
            f"remove {'one' if len(copies) == 2 else 'all copies, of which there are more'}"
        )
    first, second = shared[0][:2]
    told = [
        f"{name} ({', '.join(values)})"
        for name in first.told
        if len(values := list(dict.fromkeys(plane.told.get(name, "none") for plane in shared[0]))) > 1
    ]
    told_apart = " and ".join(told[:2]) or "no attribute"
    raise ValueError(
        f"its {first.name} and {second.name} lie at one place, and differ in {told_apart}; its {len(ordered)} slices "
        f"lie at {len(places)} place{'s' if len(places) > 1 else ''}: remove copies, and give each phase or echo a "
        "folder of its own"
    )


def _repeated(planes: Sequence[Plane]) -> set[str]:
    return {uid for uid, count in Counter(plane.uid for plane in planes).items() if count > 1}


def _check_distances(ordered: Sequence[Plane], gaps: np.ndarray) -> None:
    off = np.abs(gaps - gaps.mean())
    if off.max() <= UNEVEN * gaps.mean():
        return
    usual = float(np.median(gaps))
    odd = int(np.argmax(np.abs(gaps - usual)))
    where = (
        f"{gaps[odd]:.3g} mm lie between {ordered[odd].name} and {ordered[odd + 1].name}, {usual:.3g} mm "
        "between most others"
    )
    multiples = np.rint(gaps / usual)
    if multiples.min() >= 1 and np.abs(gaps / usual - multiples).max() <= UNEVEN:
        missing = int(multiples.sum()) - len(gaps)
        raise ValueError(
            f"its slices are not evenly spaced, {missing} {'is' if missing == 1 else 'are'} missing: {where}: "
            "add what is missing, or give each part a folder of its own"
        )
    raise ValueError(
        f"its slices are not evenly spaced, they lie up to {off.max():.3g} mm off: {where}: are some missing, or of "
        "another scan?"
    )


def _check_line(ordered: Sequence[Plane]) -> None:
    """Refuses slices that are shifted within their planes: a grid has one step from slice to slice."""
    positions = np.array([plane.position for plane in ordered])
    line = np.linspace(positions[0], positions[-1], len(positions))
    step = np.linalg.norm(positions[-1] - positions[0]) / (len(positions) - 1)
    normal = np.cross(*ordered[0].axes)
    aside = positions - line - np.outer((positions - line) @ normal, normal)
    off = np.linalg.norm(aside, axis=1)
    if off.max() > UNEVEN * step:
        odd = ordered[int(np.argmax(off))]
        raise ValueError(
            f"its slices do not lie behind one another, {odd.name} lies {off.max():.3g} mm aside: resample them to one "
            "grid"
        )
