"""Ignite handlers for the metrics that MONAI does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.utils import MetricReduction

from monai_fusenet.metrics.binary import PairMetric
from monai_fusenet.metrics.hammoude import HammoudeMetric
from monai_fusenet.metrics.xor import XorMetric

__all__ = ["BinaryPairHandler", "HammoudeHandler", "XorHandler"]


class BinaryPairHandler(IgniteMetricHandler):
    """Computes a metric of binary masks for every item and channel, and reduces it at the end of the epoch.

    Args:
        reduction: how items and channels are reduced, as in :py:class:`monai.handlers.MeanDice`.
        output_transform: extracts ``(y_pred, y)`` from ``engine.state.output``: batch-first tensors or lists of
            channel-first tensors, both binary; for decollated dictionaries ``from_engine(["pred", "label"])``.
        save_details: whether to keep the values of all items in ``engine.state.metric_details`` under the metric's
            name.
    """

    metric: ClassVar[type[PairMetric]]

    def __init__(
        self,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        output_transform: Callable = lambda x: x,
        save_details: bool = True,
    ) -> None:
        super().__init__(
            metric_fn=self.metric(reduction=reduction), output_transform=output_transform, save_details=save_details
        )


class HammoudeHandler(BinaryPairHandler):
    """Hammoude distance, see :py:func:`monai_fusenet.metrics.compute_hammoude`; arguments as its base class."""

    metric = HammoudeMetric


class XorHandler(BinaryPairHandler):
    """XOR error, see :py:func:`monai_fusenet.metrics.compute_xor`; arguments as its base class."""

    metric = XorMetric
