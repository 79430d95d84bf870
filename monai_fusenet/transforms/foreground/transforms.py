"""The choice of a foreground, and convex hulls, as dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.transforms.foreground.choice import Choice, apply_rule
from monai_fusenet.transforms.foreground.rule import Rule, shows_rule
from monai_fusenet.utils.arrays import array_of, put_back, tensor_of
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["ClustersToMaskd", "check_partitions"]


class ClustersToMaskd(MapTransform):
    """Puts the foreground beside the clusters: (1, *spatial), uint8, 0 or 1, see `choose_foreground`.

    The image may have any resolution; if needed it is brought to the grid of the clusters (nearest neighbour). Three
    more keys are added: `regions`, the list of all candidates, so that a choice can be explained; `objects_wanted`, the
    number of objects to choose, 0 for any; and `confidence`, how sure the choice is, see `Choice`.

    Args:
        keys: key of the clusters (1, *spatial).
        mask_key: where the mask goes.
        image_key: key of the image (C, *spatial), values in [0, 1].
        *args: the fields of `Rule`, in its order.
        field_key: key of the field of view (1, *spatial), outside which nothing is judged, chosen or drawn, and whose
            border counts as that of the image; `None`: the whole image.
        partitions: numbers of clusters. For each, the rule also makes a mask from a k-means of the image with that many
            clusters. The foreground is what these masks and the mask of the clusters agree on, see `agree`. Empty: only
            the clusters are used.
        **kwargs: the fields of `Rule`, by name.

    Raises:
        ValueError: a value of the rule is invalid, or `partitions` is no list of whole numbers of at least 2.
    """

    @shows_rule
    def __init__(
        self,
        keys: KeysCollection = "clusters",
        mask_key: str = "pred",
        image_key: str = "image",
        *args: Any,
        field_key: str | None = None,
        partitions: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.image_key = image_key
        self.field_key = field_key
        self.partitions = check_partitions(partitions)
        self.rule = Rule(*args, **kwargs)

    def choose(self, clusters: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The foreground of clusters in an image, from these clusters only; `partitions` is ignored.

        Args:
            clusters: (*spatial), integer labels from 1; 0: outside the field of view.
            image: (C, *any spatial), values in [0, 1].

        Returns:
            (*spatial), bool.
        """
        return self._choose(clusters, image, clusters > 0, []).mask

    def agree(self, clusters: np.ndarray, image: np.ndarray) -> np.ndarray:
        """As `choose`, but with all partitions."""
        return self._choose(clusters, image, clusters > 0, self.partitions).mask

    def _choose(
        self, clusters: np.ndarray, image: np.ndarray, field: np.ndarray | None, partitions: Sequence[int]
    ) -> Choice:
        if image.shape[1:] != clusters.shape:
            resized = torch.nn.functional.interpolate(
                torch.as_tensor(image).unsqueeze(0), size=clusters.shape, mode="nearest-exact"
            )
            image = resized[0].numpy()
        return apply_rule(self.rule, clusters, image, field, partitions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its mask, candidates and confidence."""
        sample = dict(data)
        image = array_of(at_least_float32(tensor_of(sample[self.image_key])))
        sample["objects_wanted"] = self.rule.objects or 0
        for key in self.key_iterator(sample):
            clusters = tensor_of(sample[key])
            field = field_of(sample, self.field_key)
            choice = self._choose(array_of(clusters)[0], image, field, self.partitions)
            sample["regions"], sample["confidence"] = choice.regions, choice.confidence
            mask = torch.from_numpy(choice.mask).to(torch.uint8).unsqueeze(0)
            sample[self.mask_key] = put_back(mask, clusters)
        return sample


def check_partitions(partitions: Any) -> list[int]:
    """The numbers of clusters as a list; raises `ValueError` unless they are different whole numbers of at least 2."""
    listed = list(partitions) if isinstance(partitions, list | tuple) else None
    whole = listed is not None and all(isinstance(count, int) and not isinstance(count, bool) for count in listed)
    if listed is None or not whole or len(set(listed)) < len(listed) or min(listed, default=2) < 2:
        raise ValueError(
            f"partitions must be a list of different whole numbers of at least 2, as [2,3,4], got {partitions}"
        )
    return listed
