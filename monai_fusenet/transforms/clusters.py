"""From scores to a cluster map on the image's own grid."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.transforms.utils import scale_affine
from torch import Tensor, nn

from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.utils.arrays import box_of, plain, relabel_by_size, tensor_of
from monai_fusenet.utils.scores import merge_twin_scores, merged, upsampled_argmax

__all__ = ["ScoresToClustersd"]

SAME_VOXEL = 0.1  # of the shortest side of a voxel: what arithmetic may change
WITHOUT_META = (
    "the image has no metadata, so that its clusters get its present shape: a PersistentDataset keeps them with "
    "track_meta=True; guide_key takes the shape of another image, and "
    'MetaTensor(image, meta={"spatial_shape": image.shape[1:]}) says that this one is right'
)
MOVED = (
    "the image was turned, mirrored, cropped or resampled since it was loaded, as Orientationd and Spacingd do, and "
    "its clusters would not lie on it: leave that transform out, take WorkingGridd or Resized for another resolution, "
    "or put Invertd before this transform, for the scores and the image"
)


class ScoresToClustersd(MapTransform):
    """Puts a cluster map beside the scores, on the grid that the image had when it was loaded.

    Args:
        keys: key of the scores (K, *spatial), at any working resolution.
        clusters_key: where the map goes: (1, *spatial of the loaded image), integers 1..n by decreasing size, and 0
            outside the field.
        image_key: key of the image, a `MetaTensor` whose `meta` still has `spatial_shape` and `loaded_affine` (or
            `original_affine`) as they were when it was loaded; MONAI's and this package's loaders write them. Without
            them the map has no metadata. It then gets the shape of the image under `guide_key`, or else the current
            shape, with a warning.
        merge_twins: merge the clusters that belong together for the network, see `network`.
        guide_key: key of the loaded image before it was resized, (C, *spatial), values in [0, 1], whose edges the map
            follows, see `guided_upsampling`; `None`: plain interpolation.
        network: the network that made the scores. Its `merge` says which clusters belong together, see `merged`.
            `None`: clusters c and c + K/2, as in a `FuseNet`.
        field_key: key of the field (1, *spatial of the loaded image) if the image was cropped to its box, see
            `CropToFieldd`; `None`: it was not cropped.

    Raises:
        ValueError: when a score is not finite; when twins are to be merged without a network and K is odd; when the
            image was turned, mirrored, cropped or resampled to another extent since it was loaded.
    """

    def __init__(
        self,
        keys: KeysCollection = "scores",
        clusters_key: str = "clusters",
        image_key: str = "image",
        merge_twins: bool = False,
        guide_key: str | None = None,
        network: nn.Module | None = None,
        field_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.clusters_key = clusters_key
        self.image_key = image_key
        self.merge_twins = merge_twins
        self.guide_key = guide_key
        self.network = network
        self.field_key = field_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its clusters."""
        sample = dict(data)
        image = tensor_of(sample[self.image_key])
        for key in self.key_iterator(sample):
            scores = plain(tensor_of(sample[key])).unsqueeze(0)
            if not scores.isfinite().all():
                raise ValueError("the scores are not finite: the fit diverged; try a smaller lr or fewer steps")
            if self.merge_twins:
                scores = merge_twin_scores(scores) if self.network is None else merged(self.network, scores)
            guide = None if self.guide_key is None else plain(tensor_of(sample[self.guide_key])).unsqueeze(0)
            field = field_of(sample, self.field_key)
            box = None if field is None else box_of(field)
            grid = _loaded_grid(image, box)
            if field is not None:
                shape: Sequence[int] = field[box].shape
                guide = None if guide is None else guide[(slice(None), slice(None), *box_of(field))]
            elif grid is not None:
                shape = grid[0]
            elif guide is not None:
                shape = guide.shape[2:]
            else:
                warnings.warn(WITHOUT_META, stacklevel=2)
                shape = image.shape[1:]
            labels = upsampled_argmax(scores, shape, guide).cpu().numpy()
            clusters = torch.from_numpy(relabel_by_size(labels) if field is None else _in_field(labels[0], field))
            if grid is not None:
                clusters = MetaTensor(clusters, meta={**image.meta, "affine": grid[1]})  # type: ignore[attr-defined]
            sample[self.clusters_key] = clusters
        return sample


def _in_field(labels: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Labels of the box of a field, renamed by their size in it, as a map (1, *spatial) that is 0 outside the field."""
    box = box_of(field)
    inside = relabel_by_size(labels[field[box]])
    clusters = np.zeros((1, *field.shape), dtype=inside.dtype)
    clusters[0, field] = inside
    return clusters


def _loaded_grid(image: Tensor, box: tuple[slice, ...] | None = None) -> tuple[list[int], Tensor] | None:
    """Shape and affine that an image (C, *spatial) had when it was loaded; `None` where its metadata do not say so.

    An image may have been cropped to a box of that grid since.
    """
    if not isinstance(image, MetaTensor) or "spatial_shape" not in image.meta:
        return None
    shape = [int(side) for side in image.meta["spatial_shape"]]
    affine = image.meta.get("loaded_affine", image.meta.get("original_affine"))
    if not image.applied_operations and box is None:
        return shape, torch.as_tensor(image.affine if affine is None else affine)
    start = [0] * len(shape) if box is None else [side.start for side in box]
    sides = shape if box is None else [side.stop - side.start for side in box]
    cropped = to_affine_nd(3, np.asarray(image.affine)) @ to_affine_nd(3, scale_affine(image.shape[1:], sides))
    back = np.eye(4)
    back[: len(start), 3] = np.negative(start)
    regained = cropped @ back
    if affine is None:
        return shape, torch.as_tensor(regained)
    loaded = to_affine_nd(3, np.asarray(affine))
    moved = np.abs(_corners(regained, shape) - _corners(loaded, shape)).max()
    if moved > SAME_VOXEL * np.linalg.norm(loaded[:3, : len(shape)], axis=0).min():
        raise ValueError(MOVED)
    return shape, torch.as_tensor(affine)


def _corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Where the corners of a grid lie, one a row."""
    indices = np.array(list(np.ndindex(*[2] * len(shape)))) * shape - 0.5
    return indices @ affine[:-1, : len(shape)].T + affine[:-1, -1]
