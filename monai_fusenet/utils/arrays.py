"""Arrays: what labels a map holds, grids of fewer pixels, and tensors with and without metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F

from monai_fusenet.utils.precision import at_least_float32

__all__ = [
    "Labels",
    "array_of",
    "border_of",
    "box_of",
    "count_labels",
    "numbered",
    "places_of_classes",
    "plain",
    "present_labels",
    "put_back",
    "reduced_shape",
    "relabel_by_size",
    "resize_area",
    "resize_linear",
    "resize_nearest",
    "tensor_of",
]

PART = 2**22  # pixels that are looked up together
TABLE = 2**16  # span of labels up to which a table is made of them; a sort of the pixels takes ten times as long


class Labels(NamedTuple):
    """The labels of a map.

    Attributes:
        values: the labels that occur, ascending.
        position: of each pixel's label in `values`; the shape of the map.
        sizes: pixels of each.
    """

    values: np.ndarray
    position: np.ndarray
    sizes: np.ndarray


def count_labels(labels: np.ndarray) -> Labels:
    """What occurs in a label map, where, and how often.

    Args:
        labels: integers or booleans, any shape.
    """
    values, sizes = _sizes_of(labels)
    return Labels(values, _renamed(labels, values, np.arange(len(values))), sizes)


def present_labels(labels: np.ndarray) -> np.ndarray:
    """The labels that occur in a map of integers or booleans, ascending."""
    return _sizes_of(labels)[0]


def numbered(labels: np.ndarray) -> np.ndarray:
    """Labels, integers or booleans of any shape, renamed to 1..n in their order; of as few bytes as hold n."""
    values = present_labels(labels)
    return _renamed(labels, values, np.arange(1, len(values) + 1, dtype=np.min_scalar_type(len(values))))


def _sizes_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, ascending, and how many pixels each has."""
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if not _fit_table(labels):
        return np.unique(labels, return_counts=True)
    lowest, span = int(labels.min()), int(labels.max()) - int(labels.min()) + 1
    counts = np.zeros(span, dtype=np.intp)
    for part in _parts(labels):
        counts += np.bincount(part.astype(np.intp) - lowest, minlength=span)
    present = np.flatnonzero(counts)
    return (present + lowest).astype(labels.dtype), counts[present]


def _renamed(labels: np.ndarray, values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """A map with the names of its labels, which are `values`, ascending."""
    renamed = np.empty(labels.shape, dtype=names.dtype)
    table = None
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if _fit_table(labels):
        lowest = int(values[0])
        table = np.zeros(int(values[-1]) - lowest + 1, dtype=names.dtype)
        table[values.astype(np.intp) - lowest] = names
    for part, target in zip(_parts(labels), _parts(renamed), strict=True):
        target[:] = names[np.searchsorted(values, part)] if table is None else table[part.astype(np.intp) - lowest]
    return renamed


def _fit_table(labels: np.ndarray) -> bool:
    return labels.size > 0 and int(labels.max()) - int(labels.min()) < TABLE


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a contiguous array, or of a flat copy of another, a few pixels each: indices take 8 bytes a pixel."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, PART):
        yield flat[start : start + PART]


def places_of_classes(mask: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """The classes of a mask by their place: n stands for `classes[n - 1]`, and 0 for background.

    Args:
        mask: any shape; of one class, foreground above 0, of several, 0 and their values.
        classes: their values, at most 255 whole numbers above 0.

    Returns:
        the same shape, uint8.
    """
    if len(classes) == 1:
        return (mask > 0).astype(np.uint8)
    places = np.zeros(max(classes) + 1, dtype=np.uint8)
    places[list(classes)] = np.arange(1, len(classes) + 1)
    return places[mask]


def relabel_by_size(labels: np.ndarray) -> np.ndarray:
    """Renames labels to 1..n by decreasing size; of equal sizes, the smaller label comes first.

    Args:
        labels: integers or booleans, any shape.

    Returns:
        the same shape, uint8, or uint16 for more than 255 labels.
    """
    values, sizes = _sizes_of(labels)
    rank = np.empty(len(sizes), dtype=np.uint8 if len(sizes) <= 255 else np.uint16)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return _renamed(labels, values, rank)


def border_of(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of a mask (*spatial), bool: those with a face neighbour outside the mask or the image."""
    inner = mask.copy()
    for axis in range(mask.ndim):  # SciPy's erosion takes ten times as long
        inner_along, along = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inner_along[1:] &= along[:-1]
        inner_along[:-1] &= along[1:]
        inner_along[[0, -1]] = False
    return mask ^ inner


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of a mask (*spatial), bool.

    Raises:
        ValueError: if it is empty.
    """
    if not mask.any():
        raise ValueError("expected a mask with at least one pixel, got an empty one")
    box = []
    for axis in range(mask.ndim):
        indices = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(indices[0]), int(indices[-1]) + 1))
    return tuple(box)


def reduced_shape(shape: Sequence[int], pixels: int) -> tuple[int, ...]:
    """The shape of about the same proportions that has about so many pixels; the shape itself where it has fewer."""
    ratio = (pixels / float(np.prod(shape))) ** (1 / len(shape))
    return tuple(shape) if ratio >= 1 else tuple(max(1, round(side * ratio)) for side in shape)


def resize_area(channels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Floats (C, *spatial) on a smaller grid (C, *shape): the mean of the pixels that fall into each new one."""
    if channels.shape[1:] == tuple(shape):
        return channels
    return F.interpolate(torch.as_tensor(channels).unsqueeze(0), size=tuple(shape), mode="area")[0].numpy()


def resize_linear(channels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Floats (C, *spatial) on a larger grid (C, *shape), 2-D or 3-D, interpolated linearly."""
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return F.interpolate(torch.from_numpy(channels).unsqueeze(0), size=tuple(shape), mode=mode)[0].numpy()


def resize_nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Any values (*spatial) on another grid (*shape): those of the nearest pixel."""
    chosen = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for new, old in zip(shape, array.shape, strict=True)
    )
    return array if array.shape == tuple(shape) else array[np.ix_(*chosen)]


def plain(tensor: Tensor) -> Tensor:
    """The tensor without the metadata of a `MetaTensor`, which every operation would carry along."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def put_back(values: Tensor, like: Tensor) -> Tensor:
    """Values with the metadata and the recorded operations that the tensor they were made of has, if it has any."""
    if not isinstance(like, MetaTensor):
        return values
    return MetaTensor(values, meta=like.meta, applied_operations=like.applied_operations)


def tensor_of(image: Tensor | np.ndarray) -> Tensor:
    """The tensor itself, or one with the values of an array of any byte order, strides and type."""
    if isinstance(image, Tensor):
        return image
    array = np.asarray(image)
    return convert_to_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))


def array_of(image: Tensor | np.ndarray) -> np.ndarray:
    """The array itself, or one with the values of a tensor on any device; bfloat16, which NumPy lacks, as float32."""
    if not isinstance(image, Tensor):
        return np.asarray(image)
    values = plain(image).detach().cpu()
    return (at_least_float32(values) if values.dtype == torch.bfloat16 else values).numpy()
