"""Uneven light: a smooth surface, found on a small grid and divided out of an image."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys
from skimage.filters import threshold_otsu
from torch import Tensor

from monai_fusenet.transforms.acquisition.field import means_within
from monai_fusenet.transforms.acquisition.transforms import field_of
from monai_fusenet.utils.arrays import array_of, plain, put_back, reduced_shape, resize_area, resize_linear, tensor_of
from monai_fusenet.utils.geometry import spacing_of
from monai_fusenet.utils.precision import at_least_float32

__all__ = ["N4BiasFieldCorrectiond", "ShadingCorrectiond", "find_bias", "find_shading"]

ORDERS = (1, 2, 3, 4)  # of a surface; what bends more is object
FIT_PIXELS = {2: 2**14, 3: 2**16}  # by number of axes: light is smooth, and surfaces are fitted to about so many
MOST = 1e30  # of which float32 holds sums
FLOOR = 0.02  # of the mean grey: 0 has no logarithm, and what is darker says nothing of the light
STARTS, JUDGES = 300, 2000  # surfaces that compete, and pixels that judge them
ROUNDS = 15  # of weights
TUKEY = 3.0  # standard deviations from which a pixel has no weight; of an object with 4.685, the usual, too much stays
CLOSE = 1e-3  # least standard deviation of the logarithm
BIAS_VOXELS = 2**15  # N4 takes about 5 s for so many on one core
BIAS_LEVELS, BIAS_ROUNDS = 3, 100  # of N4: splines are halved twice
BIAS_CHANGE = 1e-4  # with ITK's 1e-3 it stops halfway through a linear bias
SPLINE_ORDER, SPLINE_LENGTH = 3, 200.0  # mm of the first splines, about a head
MOST_SPLINES = 3  # along an axis at first, which is a body; a file with micrometres for millimetres has no more


def find_shading(image: np.ndarray, field: np.ndarray | None = None, order: int = 2) -> np.ndarray:
    """Uneven light on an even ground: a polynomial of the logarithm of the mean over the channels.

    The fit is robust: objects, hairs or marks do not affect it if they differ clearly and cover less than a third of
    the field.

    Args:
        image: (C, *spatial), floats of at least 0, 2-D or 3-D.
        field: (*spatial), bool: where there is light; `None`: everywhere.
        order: of the polynomial, 1 to 4.

    Returns:
        (1, *grid), float32, above 0: the divisor, to be interpolated linearly to the grid of the image. In the field it
        keeps the mean; outside it stays within the range of values in the field.

    Raises:
        ValueError: when an argument is not as described above, the field is empty, or the image has NaN or infinite
            values in the field.
    """
    _check_order(order)
    field = _checked(image, field)
    shape = reduced_shape(field.shape, FIT_PIXELS[field.ndim])
    means, known = means_within(image.mean(axis=0, keepdims=True), field, shape)
    floor = FLOOR * means[0][known].mean()
    if floor <= 0:
        return np.ones((1, *shape), dtype=np.float32)
    full = [_centres(side) for side in field.shape]
    seen = [resize_area(axis[None], (side,))[0] for axis, side in zip(full, shape, strict=True)]
    coefficients = _robust_fit(_powers(seen, order)[known.ravel()], np.log(np.maximum(means[0][known], floor)))
    logarithm = _powers([_centres(side) for side in shape], order) @ coefficients
    return _light(logarithm.reshape(shape), means[0], known, known)[None]


def find_bias(image: np.ndarray, field: np.ndarray | None = None, spacing: Sequence[float] | None = None) -> np.ndarray:
    """The bias field of each channel of an MR image, by N4 of ITK, from pixels brighter than Otsu's threshold.

    Differs from the usual settings: it works on about 32 x 32 x 32 cubes, and stops later.

    Source: Tustison et al., N4ITK: Improved N3 Bias Correction, IEEE TMI 29(6), 2010.

    Args:
        image: (C, *spatial), floats of at least 0, 2-D or 3-D.
        field: (*spatial), bool: where to look for tissue; `None`: everywhere.
        spacing: millimetres per spatial axis; `None`: 1 each.

    Returns:
        (C, *grid), float32, above 0: the divisor, to be interpolated linearly to the grid of the image. In the field it
        keeps the mean of each channel; outside the tissue it stays within the range of values in the tissue.

    Raises:
        ValueError: when an argument is not as described above, the field is empty, or the image has NaN or infinite
            values in the field.
    """
    field = _checked(image, field)
    voxel = np.ones(field.ndim) if spacing is None else np.array(spacing, dtype=float)
    if voxel.shape != (field.ndim,) or not (voxel > 0).all() or not np.isfinite(voxel).all():
        raise ValueError(f"spacing must be a number of mm above 0 for each of {field.ndim} axes, got {spacing}")
    extent = np.array(field.shape) * voxel
    cubes = np.rint(extent * (BIAS_VOXELS / extent.prod()) ** (1 / field.ndim)).astype(int)
    shape = tuple(np.clip(cubes, 1, field.shape).tolist())
    splines = np.clip(np.rint(extent / SPLINE_LENGTH), 1, MOST_SPLINES).astype(int).tolist()
    means, known = means_within(image, field, shape)
    lights = np.ones(means.shape, dtype=np.float32)
    for light, channel in zip(lights, means, strict=True):
        tissue = known & (channel > threshold_otsu(channel[known]))
        if tissue.any():
            light[:] = _light(_n4(channel, tissue, splines), channel, known, tissue)
    return lights


def _check_order(order: int) -> None:
    if isinstance(order, bool) or order not in ORDERS:
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")


def _checked(image: np.ndarray, field: np.ndarray | None) -> np.ndarray:
    """The field of an image that has light in it."""
    if image.ndim not in (3, 4) or not image.size:
        raise ValueError(f"image must have shape (C, *spatial) in 2-D or 3-D, got {image.shape}")
    field = np.ones(image.shape[1:], dtype=bool) if field is None else field
    if image.shape[1:] != field.shape:
        raise ValueError(f"image and field must have the same shape, got {image.shape[1:]} and {field.shape}")
    if not field.any():
        raise ValueError("expected a field with at least one pixel, got an empty one")
    inside = image if field.all() else np.where(field, image, 0)
    low, high = inside.min(), inside.max()
    if not high < MOST:
        raise ValueError(
            f"image must be finite and below {MOST:g} in its field, got {high:g}; "
            "CheckImaged with a nan_value replaces NaN and infinite values"
        )
    if low < -1e-6:
        raise ValueError(f"image must have no value below 0, got {low:g}; apply ScaleByPercentilesd first")
    return field


def _centres(side: int) -> np.ndarray:
    """Coordinates of pixels along an axis that runs from -1 to 1."""
    return (2 * np.arange(side) + 1) / side - 1


def _powers(coordinates: Sequence[np.ndarray], order: int) -> np.ndarray:
    """One row per pixel of a grid, one column for each product of powers of its coordinates up to an order."""
    axes = np.meshgrid(*coordinates, indexing="ij")
    powers = [each for each in itertools.product(range(order + 1), repeat=len(axes)) if sum(each) <= order]
    columns = [np.prod([axis**power for axis, power in zip(axes, each, strict=True)], axis=0) for each in powers]
    return np.stack([column.ravel() for column in columns], axis=1)


def _robust_fit(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients of the surface that the larger part of the values has in common.

    Surfaces through a few random pixels each compete for the least median residual, because least squares alone start
    halfway between object and ground. Least squares that give less weight to what is far off refine the best one.
    """
    random = np.random.default_rng(0)
    few = random.integers(len(values), size=(STARTS, terms.shape[1]))
    starts = [np.linalg.lstsq(terms[pixels], values[pixels], rcond=1e-6)[0] for pixels in (..., *few)]
    judged = random.integers(len(values), size=JUDGES)
    medians = np.median(np.abs(values[judged] - np.array(starts) @ terms[judged].T), axis=1)
    coefficients = starts[int(medians.argmin())]
    for _ in range(ROUNDS):
        residuals = np.abs(values - terms @ coefficients)
        furthest = TUKEY * max(1.4826 * float(np.median(residuals)), CLOSE)
        weighted = terms.T * np.maximum(0, 1 - (residuals / furthest) ** 2) ** 2
        coefficients = np.linalg.lstsq(weighted @ terms, weighted @ values, rcond=1e-10)[0]
    return coefficients


def _n4(values: np.ndarray, tissue: np.ndarray, splines: Sequence[int]) -> np.ndarray:
    """The logarithm of the bias of values (*spatial), from those of the tissue."""
    import itk  # its N4 takes seconds to load

    kind = itk.Image[itk.F, values.ndim]
    room = [(0, int(side == 1)) for side in values.shape]  # N4 wants two voxels along each axis
    with_room = [np.pad(array, room, mode="edge") for array in (values, tissue.astype(np.uint8))]
    n4 = itk.N4BiasFieldCorrectionImageFilter[kind, itk.Image[itk.UC, values.ndim], kind].New()
    n4.SetInput(itk.image_from_array(with_room[0]))
    n4.SetMaskImage(itk.image_from_array(with_room[1]))
    n4.SetNumberOfFittingLevels(BIAS_LEVELS)
    n4.SetMaximumNumberOfIterations([BIAS_ROUNDS] * BIAS_LEVELS)
    n4.SetConvergenceThreshold(BIAS_CHANGE)
    n4.SetSplineOrder(SPLINE_ORDER)
    n4.SetNumberOfControlPoints([SPLINE_ORDER + count for count in reversed(splines)])  # ITK's axes run the other way
    n4.SetNumberOfWorkUnits(1)  # sums differ in their last bits with the number of threads
    n4.Update()
    bias = itk.array_from_image(n4.ReconstructBiasField(n4.GetLogBiasFieldControlPointLattice()))
    return bias[tuple(slice(side) for side in values.shape)]


def _light(logarithm: np.ndarray, means: np.ndarray, known: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """Light (*grid) that keeps the mean of what is known, and goes nowhere beyond its values where it is trusted."""
    light = np.exp(np.clip(logarithm, logarithm[trusted].min(), logarithm[trusted].max()))
    return (light * ((means / light)[known].sum() / means[known].sum())).astype(np.float32)


class _DividedByLightd(MapTransform, InvertibleTransform):
    """Divides images by light that a subclass finds on a small grid, and multiplies with it again."""

    def __init__(self, keys: KeysCollection = "image", field_key: str | None = None) -> None:
        super().__init__(keys)
        self.field_key = field_key

    @abstractmethod
    def light_of(self, image: Tensor, field: np.ndarray | None) -> np.ndarray:
        """Light (1 or C, *grid), float32, above 0, of an image (C, *spatial)."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with images in even light."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = tensor_of(sample[key])
            light = self.light_of(image, field_of(sample, self.field_key))
            values = plain(at_least_float32(image))
            even = put_back(values / _on_grid_of(values, light), image)
            sample[key] = self.push_transform(even, extra_info={"light": torch.from_numpy(light)})
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with images in the light that they came in."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            step = self.pop_transform(sample[key])
            light = array_of(torch.as_tensor(step[TraceKeys.EXTRA_INFO]["light"]))
            values = plain(sample[key])
            sample[key] = put_back(values * _on_grid_of(values, light), sample[key])
        return sample


def _on_grid_of(values: Tensor, light: np.ndarray) -> Tensor:
    """Light on the grid, the device and of the type of values (C, *spatial)."""
    return torch.from_numpy(resize_linear(light, values.shape[1:])).to(values.device, values.dtype)


class ShadingCorrectiond(_DividedByLightd):
    """Divides uneven light out of pictures of an even ground, such as skin or a bright field, see `find_shading`.

    All channels are divided alike, so hues do not change. The mean in the field does not change either, but single
    values may exceed 1; use `ScaleByPercentilesd` afterwards to bring them to [0, 1]. An object that covers more than a
    third of the field may be taken for the ground.

    MONAI's `Invertd` undoes it. Use it for images only: it would multiply a mask or scores with the light as well.

    Args:
        keys: keys of images (C, *spatial), values of at least 0, 2-D or 3-D; whole numbers become float32.
        field_key: key of a field (1, *spatial) to which the measurement of the light is limited, in samples that have
            one.
        order: of the surface, 1 to 4; a surface of order 2 has one brightest or darkest place.

    Raises:
        ValueError: when `order` is out of range; when the field is empty or has another shape than the image; when the
            image has values below 0, NaN or infinite values in the field.
    """

    def __init__(self, keys: KeysCollection = "image", field_key: str | None = None, order: int = 2) -> None:
        super().__init__(keys, field_key)
        _check_order(order)
        self.order = order

    def light_of(self, image: Tensor, field: np.ndarray | None) -> np.ndarray:
        """The surface of light, one for all channels."""
        return find_shading(array_of(image.float()), field, self.order)


class N4BiasFieldCorrectiond(_DividedByLightd):
    """Divides the bias field out of each channel of MR images, with N4 of ITK, see `find_bias`.

    The voxel size of a `MetaTensor` from a loader is used. The mean of each channel in the field does not change. A
    channel takes a few seconds; the first takes ten seconds more, because ITK loads N4.

    MONAI's `Invertd` undoes it. Use it for images only: it would multiply a mask or scores with the bias as well.

    Args:
        keys: keys of images (C, *spatial), values of at least 0, 2-D or 3-D; whole numbers become float32.
        field_key: key of a field (1, *spatial) to which the search for tissue is limited, in samples that have one.

    Raises:
        ValueError: when the field is empty or has another shape than the image; when the image has values below 0, NaN
            or infinite values in the field.
    """

    def light_of(self, image: Tensor, field: np.ndarray | None) -> np.ndarray:
        """The bias fields, one for each channel."""
        return find_bias(array_of(image.float()), field, spacing_of(image))
