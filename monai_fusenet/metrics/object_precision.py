"""Average precision of objects, matched one to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.utils import MetricReduction
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from monai_fusenet.metrics.binary import PairMetric, check_pair
from monai_fusenet.utils.arrays import array_of, count_labels

__all__ = ["ObjectPrecisionMetric", "compute_object_precision"]

THRESHOLDS = (0.5, 0.75)


def compute_object_precision(y_pred: Tensor, y: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Average precision of objects, AP = TP / (TP + FP + FN), in [0, 1], at each threshold of IoU.

    Objects of prediction and truth are matched one to one, so that as many pairs as possible reach the threshold; each
    such pair is a TP. Unmatched predicted objects are FP, unmatched true objects FN. Two maps without objects agree (AP
    1); if only one has none, AP is 0.

    Args:
        y_pred: predicted objects, whole numbers from 1; 0 is background. The numbers may have gaps, and the pixels of
            an object need not touch.
        y: true objects, of the same shape.
        thresholds: smallest IoU at which a pair matches, above 0 and at most 1.

    Returns:
        one value per item and threshold, float32.

    Shape:
        (B, 1, *spatial) twice -> (B, thresholds)

    Raises:
        ValueError: the shapes differ, there is more than one channel or no spatial axis, a value is no whole number of
            at least 0, or a threshold is not in (0, 1].

    Source:
        2018 Data Science Bowl, Caicedo et al., Nature Methods 16, 2019, whose score is the mean over thresholds; also
        that of StarDist (Schmidt et al., MICCAI 2018) and cellpose.

    Example:
        >>> import torch
        >>> truth, found = torch.tensor([[[[1, 1, 0, 2, 2, 2]]]]), torch.tensor([[[[4, 4, 0, 0, 7, 7]]]])
        >>> compute_object_precision(found, truth)  # IoU 1 and 2/3
        tensor([[1.0000, 0.3333]])
    """
    y_pred, y = check_pair(y_pred, y)
    if y.shape[1] != 1:
        raise ValueError(f"y_pred and y must have one channel, that of the objects, got {y.shape[1]}")
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"each threshold must be above 0 and at most 1, got {threshold}")
    items = zip(_whole("y_pred", y_pred), _whole("y", y), strict=True)
    return torch.tensor([_precisions(found, true, thresholds) for found, true in items]).reshape(-1, len(thresholds))


class ObjectPrecisionMetric(PairMetric):
    """Cumulative :py:func:`compute_object_precision` over batches, with thresholds in the place of channels.

    Args:
        thresholds: smallest IoU at which a pair matches.
        reduction: how ``aggregate`` reduces items and thresholds, as in :py:class:`monai.metrics.MeanIoU`:
            ``"mean_batch"`` gives one value per threshold, ``"mean"`` the mean of these.
        get_not_nans: whether ``aggregate`` returns (value, count of values) instead of the value.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        reduction: MetricReduction | str = MetricReduction.MEAN_BATCH,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.thresholds = tuple(thresholds)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return compute_object_precision(y_pred, y, self.thresholds)


def _whole(name: str, objects: Tensor) -> np.ndarray:
    """The objects as integers; raises `ValueError` for other values."""
    values = array_of(objects)
    if values.dtype.kind == "f" and not np.array_equal(values, np.trunc(values)):
        raise ValueError(f"{name} must hold whole numbers, got {values.dtype} with fractions or NaN")
    if values.size and values.min() < 0:
        raise ValueError(f"{name} must hold 0 for background and numbers from 1 for objects, got {values.min():g}")
    return values.astype(np.int64)


def _precisions(found: np.ndarray, true: np.ndarray, thresholds: Sequence[float]) -> list[float]:
    """The average precision at each threshold, for label maps of one shape."""
    (labels, rows, sizes), (true_labels, columns, true_sizes) = count_labels(found), count_labels(true)
    count, true_count = int((labels > 0).sum()), int((true_labels > 0).sum())
    if count == 0 or true_count == 0:
        return [float(count == true_count)] * len(thresholds)
    # Sparse: of a thousand objects, each meets a few others.
    both = coo_array((np.ones(rows.size, np.int64), (rows.ravel(), columns.ravel())), (len(sizes), len(true_sizes)))
    both.sum_duplicates()
    row, column = both.coords
    iou = both.data / (sizes[row] + true_sizes[column] - both.data)
    are_objects = (labels[row] > 0) & (true_labels[column] > 0)
    precisions = []
    for threshold in thresholds:
        match = are_objects & (iou >= threshold)
        graph = coo_array((match[match], (row[match], column[match])), both.shape).tocsr()
        matches = int((maximum_bipartite_matching(graph) >= 0).sum())
        precisions.append(matches / (count + true_count - matches))
    return precisions
