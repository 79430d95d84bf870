"""The common part of the metrics of two masks, or of two label maps."""

from __future__ import annotations

import torch
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor

from monai_fusenet.utils.arrays import tensor_of


def check_pair(y_pred: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors or arrays (B, C, *spatial) as tensors.

    Raises:
        ValueError: the shapes differ, or there are no spatial axes.
    """
    y_pred, y = tensor_of(y_pred), tensor_of(y)
    if y_pred.shape != y.shape:
        raise ValueError(f"y_pred and y must have the same shape, got {tuple(y_pred.shape)} and {tuple(y.shape)}")
    if y_pred.ndim < 3:
        raise ValueError(f"y_pred and y must have shape (B, C, *spatial), got {tuple(y_pred.shape)}")
    return y_pred, y


def binary_pair(y_pred: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Checks two binary masks and returns them as booleans, so that sums neither round nor overflow.

    Args:
        y_pred: prediction, values 0 and 1 of any type, a tensor or an array.
        y: truth, of the same shape.

    Shape:
        (B, C, *spatial) twice -> the same twice

    Raises:
        ValueError: the shapes differ, there are no spatial axes, or a value is neither 0 nor 1.
    """
    y_pred, y = check_pair(y_pred, y)
    for name, mask in (("y_pred", y_pred), ("y", y)):
        if not torch.all((mask == 0) | (mask == 1)):
            raise ValueError(f"{name} must be binary, got values from {mask.min().item():g} to {mask.max().item():g}")
    return y_pred.bool(), y.bool()


class PairMetric(CumulativeIterationMetric):
    """Collects one value per item and channel; subclasses compute it in ``_compute_tensor``.

    Args:
        reduction: how ``aggregate`` reduces items and channels: ``"none"``, ``"mean"``, ``"sum"``, ``"mean_batch"``,
            ``"sum_batch"``, ``"mean_channel"`` or ``"sum_channel"``, as in :py:class:`monai.metrics.MeanIoU`.
        get_not_nans: whether ``aggregate`` returns (value, count of values) instead of the value.
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN, get_not_nans: bool = False) -> None:
        super().__init__()
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Reduces the values collected since the last ``reset``.

        Args:
            reduction: replaces the metric's own reduction in this call.

        Raises:
            ValueError: nothing was collected.
        """
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError(f"{type(self).__name__} has no values to aggregate: call it on a batch first")
        reduced, not_nans = do_metric_reduction(values, reduction or self.reduction)
        return (reduced, not_nans) if self.get_not_nans else reduced
