"""From scores to a cluster map on the image's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ScoresToClustersd", "count_clusters", "merge_twin_scores", "relabel_by_size", "upsampled_argmax"]


def count_clusters(scores: Tensor) -> Tensor:
    """How many clusters win at least one pixel; stays on the device of the scores.

    Args:
        scores: (B, K, *spatial).

    Returns:
        (B,), integers in [1, K].
    """
    winners = scores.argmax(dim=1).flatten(1)
    present = torch.zeros(scores.shape[:2], dtype=torch.long, device=scores.device)
    return present.scatter_(1, winners, 1).sum(dim=1)


def merge_twin_scores(scores: Tensor) -> Tensor:
    """Adds the scores of clusters c and c + K/2, which FuseNet's residual makes near twins.

    Args:
        scores: (B, K, *spatial), K even.

    Returns:
        (B, K / 2, *spatial)
    """
    first, second = scores.chunk(2, dim=1)
    return first + second


def upsampled_argmax(scores: Tensor, size: Sequence[int], channels_at_once: int = 16) -> Tensor:
    """Argmax over channels of the scores interpolated (bilinear or trilinear) to `size`.

    Works through a few channels at a time: all of them at the size of a large image would not fit into memory.

    Args:
        scores: (1, K, *spatial).
        size: spatial size to reach.
        channels_at_once: channels that are interpolated together.

    Returns:
        (1, *size), integers in [0, K); ties go to the smaller one.
    """
    mode = "trilinear" if scores.ndim == 5 else "bilinear"
    best = torch.full((1, *size), -torch.inf, dtype=scores.dtype, device=scores.device)
    winners = torch.zeros((1, *size), dtype=torch.long, device=scores.device)
    for start in range(0, scores.shape[1], channels_at_once):
        block = F.interpolate(scores[:, start : start + channels_at_once], size=tuple(size), mode=mode)
        value, winner = block.max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        winners = torch.where(better, winner + start, winners)
    return winners


def relabel_by_size(labels: np.ndarray) -> np.ndarray:
    """Renames labels to 1..n by decreasing size; of equal sizes, the smaller label comes first.

    Args:
        labels: integers, any shape.

    Returns:
        the same shape, uint8, or uint16 for more than 255 labels.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.uint8 if len(counts) <= 255 else np.uint16)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return rank[inverse.reshape(labels.shape)]


class ScoresToClustersd(MapTransform):
    """Puts a cluster map beside the scores, on the grid that the image had when it was loaded.

    Args:
        keys: key of the scores (K, *spatial), at any working resolution.
        clusters_key: where the map goes: (1, *spatial of the loaded image), integers 1..n by decreasing size.
        image_key: key of the image, a `MetaTensor` whose `meta` still has `spatial_shape` and `loaded_affine` (or
            `original_affine`) as they were when it was loaded; both MONAI's and this package's loaders leave them.
        merge_twins: add the scores of twin clusters first, see `merge_twin_scores`.

    Raises:
        ValueError: when a score is not finite.
    """

    def __init__(
        self,
        keys: KeysCollection = "scores",
        clusters_key: str = "clusters",
        image_key: str = "image",
        merge_twins: bool = False,
    ) -> None:
        super().__init__(keys)
        self.clusters_key = clusters_key
        self.image_key = image_key
        self.merge_twins = merge_twins

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its clusters."""
        sample = dict(data)
        image = sample[self.image_key]
        for key in self.key_iterator(sample):
            scores = torch.as_tensor(sample[key]).unsqueeze(0)
            scores = scores.as_tensor() if isinstance(scores, MetaTensor) else scores
            if not scores.isfinite().all():
                raise ValueError("the scores are not finite: the fit diverged; a smaller lr or fewer steps may mend it")
            if self.merge_twins:
                scores = merge_twin_scores(scores)
            labels = upsampled_argmax(scores, [int(side) for side in image.meta["spatial_shape"]])
            clusters = torch.from_numpy(relabel_by_size(labels.cpu().numpy()))
            affine = image.meta.get("loaded_affine", image.meta.get("original_affine", image.affine))
            meta = {**image.meta, "affine": torch.as_tensor(affine)}
            sample[self.clusters_key] = MetaTensor(clusters, meta=meta)
        return sample
