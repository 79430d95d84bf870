"""The Hammoude distance of two masks."""

from __future__ import annotations

from monai.metrics import compute_iou
from torch import Tensor

from monai_fusenet.metrics.binary import PairMetric, binary_pair


def compute_hammoude(y_pred: Tensor, y: Tensor) -> Tensor:
    """Hammoude distance: the part of the union where two masks disagree, which is 1 - IoU.

    `HM = (|A or B| - |A and B|) / |A or B|`, in [0, 1]: 0 for equal masks (also when both are empty), 1 for disjoint
    ones (also when one is empty).

    Args:
        y_pred: prediction, values 0 and 1 of any type, a tensor or an array.
        y: truth, of the same shape.

    Returns:
        one distance per item and channel.

    Shape:
        (B, C, *spatial) twice, 2-D or 3-D -> (B, C)

    Raises:
        ValueError: the shapes differ, there are no spatial axes, or a value is neither 0 nor 1.

    Source:
        A. Hammoude, Computer-assisted endocardial border identification from a sequence of two-dimensional
        echocardiographic images, PhD thesis, University of Washington, 1988; the HM of arXiv 2311.13069.

    Example:
        >>> import torch
        >>> compute_hammoude(torch.tensor([[[[1, 1, 0]]]]), torch.tensor([[[[0, 1, 0]]]]))
        tensor([[0.5000]])
    """
    y_pred, y = binary_pair(y_pred, y)
    return 1 - compute_iou(y_pred, y, ignore_empty=False)


class HammoudeMetric(PairMetric):
    """Cumulative :py:func:`compute_hammoude` over batches, used as :py:class:`monai.metrics.MeanIoU` is.

    Args:
        reduction: how ``aggregate`` reduces items and channels, as in :py:class:`monai.metrics.MeanIoU`.
        get_not_nans: whether ``aggregate`` returns (value, count of values) instead of the value.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return compute_hammoude(y_pred, y)
