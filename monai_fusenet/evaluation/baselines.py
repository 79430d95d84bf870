"""Trivial masks and label maps to print beside every result.

An image is an array (C, *spatial) of floats in [0, 1], 2-D or 3-D. Three channels in 2-D are RGB; any others are grey,
or sequences. Masks are boolean arrays and label maps integer arrays, both of the spatial shape.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as connected_components
from skimage.filters import threshold_otsu
from skimage.segmentation import slic
from sklearn.cluster import AgglomerativeClustering

from monai_fusenet.transforms.kmeans import check_image, colours_of, is_rgb
from monai_fusenet.utils.arrays import count_labels, relabel_by_size

CENTRE_SIGMA = 0.25
"""Standard deviation of the Gaussian centre weight, in parts of each side."""


def whole_image_mask(image: np.ndarray) -> np.ndarray:
    """Everything is the object.

    Args:
        image: (C, *spatial), floats in [0, 1].

    Raises:
        ValueError: the image has another shape, type or range.
    """
    check_image(image)
    return np.ones(image.shape[1:], dtype=bool)


def centred_disk_mask(image: np.ndarray, radius: float = 0.3) -> np.ndarray:
    """A disk (in 3-D a ball) around the centre, independent of the image content.

    Args:
        image: (C, *spatial), floats in [0, 1]; only its shape matters.
        radius: in parts of each side, so that an oblong image gets an ellipse; 0.5 touches the border.

    Raises:
        ValueError: the image has another shape, type or range.
    """
    check_image(image)
    squares = [_centred_axis(side) ** 2 for side in image.shape[1:]]
    return reduce(np.add.outer, squares) <= radius**2


def otsu_mask(image: np.ndarray, polarity: str = "dark", smoothing: float = 1 / 128) -> np.ndarray:
    """The pixels on one side of Otsu's threshold of the grey value.

    The grey value is the mean of the channels, not luminance, which nearly ignores blue.

    Args:
        image: (C, *spatial), floats in [0, 1].
        polarity: ``"dark"`` for grey values up to the threshold, ``"bright"`` for those above. A constant image is
            dark everywhere.
        smoothing: standard deviation of a Gaussian blur before the threshold, in parts of each side (1/128 is 2 pixels
            at 256); 0 for none.

    Raises:
        ValueError: the image has another shape, type or range, or the polarity is another word.

    Source:
        N. Otsu, A threshold selection method from gray-level histograms, IEEE SMC 9(1), 1979; by scikit-image.
    """
    check_image(image)
    if polarity not in ("dark", "bright"):
        raise ValueError(f"polarity must be 'dark' or 'bright', got {polarity!r}")
    grey = image.mean(axis=0, dtype=np.float64)
    grey = gaussian_filter(grey, [smoothing * side for side in grey.shape], mode="nearest")
    threshold = threshold_otsu(grey)
    return grey <= threshold if polarity == "dark" else grey > threshold


def centre_component(mask: np.ndarray) -> np.ndarray:
    """The connected component with the largest sum of a centred Gaussian weight.

    So central and large components win. The standard deviation of the weight is a quarter of each side. Pixels are
    connected through faces.

    Args:
        mask: (*spatial), foreground above 0.

    Returns:
        boolean mask of one component; empty if the mask is.
    """
    components, count = connected_components(mask > 0)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    profiles = [np.exp(-0.5 * (_centred_axis(side) / CENTRE_SIGMA) ** 2) for side in mask.shape]
    weight = np.bincount(components.ravel(), weights=reduce(np.multiply.outer, profiles).ravel())
    weight[0] = 0  # the background
    return components == weight.argmax()


def slic_clusters(image: np.ndarray, k: int = 3, segments: int = 250) -> np.ndarray:
    """SLIC superpixels, merged by mean colour until ``k`` clusters are left (Ward linkage, no seed).

    Args:
        image: (C, *spatial), floats in [0, 1].
        k: number of clusters; an image with fewer superpixels gets fewer.
        segments: approximate number of superpixels.

    Returns:
        labels 1..k by decreasing size.

    Raises:
        ValueError: the image has another shape, type or range, or ``k`` is not positive.

    Source:
        R. Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, IEEE TPAMI 34(11), 2012;
        by scikit-image, merged by scikit-learn.
    """
    check_image(image)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    # the usual weights of place against colour: Lab distances are near 10, grey ones near 0.1
    in_lab = is_rgb(image)
    compactness = 10 if in_lab else 0.1
    superpixels = slic(image, segments, compactness, channel_axis=0, convert2lab=in_lab)
    _, superpixels, sizes = count_labels(superpixels.ravel())
    colours = np.stack([np.bincount(superpixels, channel) / sizes for channel in colours_of(image).T], axis=1)
    merged = np.arange(len(sizes)) if len(sizes) <= k else AgglomerativeClustering(k).fit_predict(colours)
    return relabel_by_size(merged[superpixels]).reshape(image.shape[1:])


def _centred_axis(side: int) -> np.ndarray:
    """Positions of the pixel centres along an axis, from -0.5 to 0.5."""
    return (np.arange(side) + 0.5) / side - 0.5
