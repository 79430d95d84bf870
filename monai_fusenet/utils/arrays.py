"""Arrays: what labels a map holds, grids of fewer pixels, and tensors with and without metadata."""

from __future__ import annotations

from collections.abc import Sequence
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
    "places_of_classes",
    "plain",
    "put_back",
    "reduced_shape",
    "relabel_by_size",
    "resize_area",
    "resize_linear",
    "resize_nearest",
    "tensor_of",
]

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
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    lowest = int(labels.min()) if labels.size else 0
    if labels.size == 0 or int(labels.max()) - lowest >= TABLE:
        values, position, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        return Labels(values, position.reshape(labels.shape), sizes)
    shifted = labels.astype(np.intp) - lowest if lowest else labels.astype(np.intp)
    counts = np.bincount(shifted.ravel())
    present = np.flatnonzero(counts)
    positions = np.zeros(len(counts), dtype=np.intp)
    positions[present] = np.arange(len(present))
    return Labels((present + lowest).astype(labels.dtype), positions[shifted], counts[present])


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
    _, position, sizes = count_labels(labels)
    rank = np.empty(len(sizes), dtype=np.uint8 if len(sizes) <= 255 else np.uint16)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return rank[position]


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
