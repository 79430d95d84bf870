"""Label maps, whatever their labels are called."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Labels", "count_labels", "relabel_by_size"]

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
