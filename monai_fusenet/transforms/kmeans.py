"""k-means clusters of an image, as a function and as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from skimage.color import rgb2lab
from threadpoolctl import ThreadpoolController

from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.utils.arrays import array_of, put_back, relabel_by_size, tensor_of
from monai_fusenet.utils.checks import check_whole

__all__ = ["KMeansClustersd", "check_image", "colours_of", "is_rgb", "kmeans_clusters", "kmeans_partitions"]

KMEANS_PIXELS = 50_000  # that k-means is fitted to; a larger image is sampled


def check_image(image: np.ndarray) -> None:
    """Raises a ``ValueError`` that names shape or range unless the image is (C, *spatial), floats in [0, 1]."""
    if image.ndim not in (3, 4):
        raise ValueError(f"image must have shape (C, *spatial) in 2-D or 3-D, got {image.shape}")
    if image.dtype.kind != "f" or not (image.min() >= -1e-6 and image.max() <= 1 + 1e-6):
        raise ValueError(f"image must be float in [0, 1], got {image.dtype} from {image.min():g} to {image.max():g}")


def kmeans_clusters(image: np.ndarray, k: int, seed: int = 0, field: np.ndarray | None = None) -> np.ndarray:
    """k-means on colour: Lab values of an RGB image, intensities of any other.

    Args:
        image: (C, *spatial), floats in [0, 1], with any number of channels; three of them in 2-D are RGB.
        k: number of clusters; an image with fewer different colours gets fewer.
        seed: of the initial centres and of the sample of 50 000 pixels that a larger image is fitted to.
        field: (*spatial), bool: where pixels are clustered; `None`: everywhere.

    Returns:
        labels 1..k by decreasing size, and 0 outside the field.

    Raises:
        ValueError: the image has another shape, type or range, or ``k`` is not positive.
    """
    return next(kmeans_partitions(image, [k], seed, field))


def kmeans_partitions(
    image: np.ndarray, counts: Sequence[int], seed: int = 0, field: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """`kmeans_clusters` for several numbers of clusters, one after the other; the colours are computed once."""
    check_image(image)
    if min(counts, default=1) < 1:
        raise ValueError(f"k must be at least 1, got {min(counts)}")
    field = np.ones(image.shape[1:], dtype=bool) if field is None else field
    pixels = colours_of(image)
    if not field.all():
        pixels = pixels[field.ravel()]
    sample = pixels
    if len(pixels) > KMEANS_PIXELS:
        sample = pixels[np.random.default_rng(seed).choice(len(pixels), KMEANS_PIXELS, replace=False, shuffle=False)]
    from sklearn.cluster import KMeans  # half a second, and most who import transforms want none of it

    different = _different_rows(sample, max(counts, default=1))  # KMeans warns of fewer than it was asked for
    for k in counts:
        with _threads().limit(limits=1):  # threads that wait for a busy core make it ten times slower
            means = KMeans(min(k, different), n_init=3, random_state=seed).fit(sample)
            labels = relabel_by_size(means.predict(pixels))
        clusters = np.zeros(field.shape, dtype=labels.dtype)
        clusters[field] = labels
        yield clusters


@cache
def _threads() -> ThreadpoolController:
    """The thread pools of the process once scikit-learn is there; to look for them takes as long as a small k-means."""
    return ThreadpoolController()


def _different_rows(rows: np.ndarray, most: int) -> int:
    """How many different rows there are, counted up to `most`."""
    count = 0
    while len(rows) and count < most:
        rows = rows[(rows != rows[0]).any(axis=1)]
        count += 1
    return count


def is_rgb(image: np.ndarray) -> bool:
    """Whether an image (C, *spatial) is a picture in colour."""
    return image.ndim == 3 and len(image) == 3


def colours_of(image: np.ndarray) -> np.ndarray:
    """One row per pixel: Lab values of an RGB image, the intensities of any other."""
    channels = rgb2lab(image, channel_axis=0) if is_rgb(image) else image
    return np.ascontiguousarray(channels.reshape(len(channels), -1).T, dtype=np.float64)


class KMeansClustersd(MapTransform):
    """k-means clusters of an image at its loaded size, see `kmeans_clusters`: the classical teacher of a distillation.

    Args:
        keys: key of the image (C, *spatial), values in [0, 1].
        clusters_key: where the clusters go: (1, *spatial), integers 1..clusters by decreasing size, where the image is.
        clusters: how many.
        field_key: key of a field (1, *spatial): only its pixels are clustered, and the label outside is 0. `None`: all
            pixels.
    """

    def __init__(
        self,
        keys: KeysCollection = "original",
        clusters_key: str = "clusters",
        clusters: int = 2,
        field_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        check_whole("clusters", clusters, 2)
        self.clusters_key = clusters_key
        self.clusters = clusters
        self.field_key = field_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the sample with its clusters."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            labels = kmeans_clusters(array_of(image), self.clusters, field=field_of(sample, self.field_key))
            sample[self.clusters_key] = put_back(torch.from_numpy(labels.astype(np.uint8)).unsqueeze(0), image)
        return sample
