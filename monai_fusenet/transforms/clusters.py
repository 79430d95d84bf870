"""From scores to a cluster map on the image's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import nn

from monai_fusenet.utils.arrays import plain, relabel_by_size
from monai_fusenet.utils.scores import merge_twin_scores, merged, upsampled_argmax

__all__ = ["ScoresToClustersd"]


class ScoresToClustersd(MapTransform):
    """Puts a cluster map beside the scores, on the grid that the image had when it was loaded.

    Args:
        keys: key of the scores (K, *spatial), at any working resolution.
        clusters_key: where the map goes: (1, *spatial of the loaded image), integers 1..n by decreasing size.
        image_key: key of the image, a `MetaTensor` whose `meta` still has `spatial_shape` and `loaded_affine` (or
            `original_affine`) as they were when it was loaded; both MONAI's and this package's loaders leave them.
        merge_twins: merge the clusters that the network takes for one, see `network`.
        guide_key: key of the loaded image before it was resized, (C, *spatial), values in [0, 1], whose edges the map
            follows, see `guided_upsampling`; `None`: plain interpolation.
        network: what the scores come from, which says by its `merge` which clusters are one, see `merged`; `None`:
            clusters c and c + K/2, as in a `FuseNet`.

    Raises:
        ValueError: when a score is not finite, or when K is odd where twins are to be merged without a network.
    """

    def __init__(
        self,
        keys: KeysCollection = "scores",
        clusters_key: str = "clusters",
        image_key: str = "image",
        merge_twins: bool = False,
        guide_key: str | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(keys)
        self.clusters_key = clusters_key
        self.image_key = image_key
        self.merge_twins = merge_twins
        self.guide_key = guide_key
        self.network = network

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its clusters."""
        sample = dict(data)
        image = sample[self.image_key]
        for key in self.key_iterator(sample):
            scores = plain(torch.as_tensor(sample[key])).unsqueeze(0)
            if not scores.isfinite().all():
                raise ValueError("the scores are not finite: the fit diverged; a smaller lr or fewer steps may mend it")
            if self.merge_twins:
                scores = merge_twin_scores(scores) if self.network is None else merged(self.network, scores)
            guide = None if self.guide_key is None else plain(torch.as_tensor(sample[self.guide_key])).unsqueeze(0)
            labels = upsampled_argmax(scores, [int(side) for side in image.meta["spatial_shape"]], guide)
            clusters = torch.from_numpy(relabel_by_size(labels.cpu().numpy()))
            affine = image.meta.get("loaded_affine", image.meta.get("original_affine", image.affine))
            meta = {**image.meta, "affine": torch.as_tensor(affine)}
            sample[self.clusters_key] = MetaTensor(clusters, meta=meta)
        return sample
