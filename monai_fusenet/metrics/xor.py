"""The XOR error of a mask."""

from __future__ import annotations

from torch import Tensor

from monai_fusenet.metrics.binary import PairMetric, binary_pair


def compute_xor(y_pred: Tensor, y: Tensor) -> Tensor:
    """XOR error: the area where prediction and truth disagree, divided by the truth's area.

    `XOR = |A xor B| / |B|` with prediction A and truth B, in [0, inf): 0 for equal masks (also when both are empty), 1
    for an empty prediction, above 1 where the prediction spills over; inf when the truth is empty and the prediction
    is not.

    Args:
        y_pred: prediction, values 0 and 1 of any type, a tensor or an array.
        y: truth, of the same shape.

    Returns:
        one error per item and channel.

    Shape:
        (B, C, *spatial) twice, 2-D or 3-D -> (B, C)

    Raises:
        ValueError: the shapes differ, there are no spatial axes, or a value is neither 0 nor 1.

    Source:
        G. A. Hance et al., Unsupervised color image segmentation: with application to skin tumor borders, IEEE
        Engineering in Medicine and Biology 15(1), 1996; the XOR of arXiv 2311.13069.

    Example:
        >>> import torch
        >>> compute_xor(torch.tensor([[[[1, 1, 0]]]]), torch.tensor([[[[0, 1, 0]]]]))
        tensor([[1.]])
    """
    y_pred, y = binary_pair(y_pred, y)
    wrong = (y_pred ^ y).flatten(2).sum(dim=2)
    area = y.flatten(2).sum(dim=2)
    return (wrong / area).where(wrong > 0, 0.0)  # 0 / 0 is nan, and two empty masks agree


class XorMetric(PairMetric):
    """Cumulative :py:func:`compute_xor` over batches, used as :py:class:`monai.metrics.MeanIoU` is.

    One item with an empty truth and a non-empty prediction makes every mean and sum with it infinite. The reduction
    ``"none"`` shows which item it is.

    Args:
        reduction: how ``aggregate`` reduces items and channels, as in :py:class:`monai.metrics.MeanIoU`.
        get_not_nans: whether ``aggregate`` returns (value, count of values) instead of the value.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return compute_xor(y_pred, y)
