"""The changes that make an augmented view: brightness, hue and blur."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from scipy.ndimage import gaussian_filter
from skimage.color import hsv2rgb, rgb2hsv

from monai_fusenet.utils.arrays import array_of

__all__ = [
    "RandColorJitter",
    "RandColorJitterd",
    "RandFixedKernelBlur",
    "RandFixedKernelBlurd",
    "adjust_brightness",
    "blur",
    "shift_hue",
]


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies values in [0, 1] by `factor`, clamped to [0, 1]."""
    return np.clip(image * factor, 0, 1)


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue of an RGB image by `shift` turns of the colour circle.

    Args:
        image: (3, H, W), values in [0, 1].
        shift: in [-0.5, 0.5].
    """
    hsv = rgb2hsv(image, channel_axis=0)
    hsv[0] = (hsv[0] + shift) % 1
    return hsv2rgb(hsv, channel_axis=0)


def blur(image: np.ndarray, kernel_size: Sequence[int], sigma: float) -> np.ndarray:
    """Gaussian blur with a renormalised kernel of fixed size; the border is reflected without repeating the edge.

    Args:
        image: (C, *spatial).
        kernel_size: odd size of the kernel along each spatial axis, in pixels.
        sigma: standard deviation in pixels, above 0.
    """
    axes = tuple(range(1, image.ndim))
    return gaussian_filter(image, sigma, mode="mirror", radius=[size // 2 for size in kernel_size], axes=axes)


def _array_of(image: NdarrayOrTensor) -> np.ndarray:
    """The values of an image as SciPy knows them: not in half precision, and no whole numbers, which it cuts off."""
    array = array_of(image)
    if array.dtype.kind != "f":
        raise ValueError(
            f"image must be float in [0, 1], got {array.dtype}: ScaleByPercentilesd or From8Bitd scales it"
        )
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _as_range(value: float | Sequence[float], name: str) -> tuple[float, float]:
    low, high = ensure_tuple_rep(value, 2)
    if low > high:
        raise ValueError(f"{name} must be a number or a pair (low, high), got {value}")
    return float(low), float(high)


class RandColorJitter(Randomizable, Transform):
    """Changes brightness and hue, in random order; the order matters because values are clamped.

    The defaults are the published values; with them, only the order is random. Hue is shifted only in 2-D images of
    three channels, taken as R, G, B; others keep their colours. (The published shift is -0.06 on channels in the order
    B, G, R, which is +0.06 here.)

    Args:
        brightness: factor, or range to draw it from.
        hue: shift in turns of the colour circle, or range to draw it from.

    Shape:
        (C, *spatial), values in [0, 1] -> the same

    Raises:
        ValueError: when the ends of a range are swapped, or an image holds whole numbers.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2, and the published code.
    """

    def __init__(self, brightness: float | Sequence[float] = 1.4, hue: float | Sequence[float] = 0.06) -> None:
        self.brightness = _as_range(brightness, "brightness")
        self.hue = _as_range(hue, "hue")

    def randomize(self, data: Any = None) -> None:
        """Draws factor, shift and order."""
        self._factor = self.R.uniform(*self.brightness)
        self._shift = self.R.uniform(*self.hue)
        self._hue_first = self.R.rand() < 0.5

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Returns the jittered image, as the type that came."""
        if randomize:
            self.randomize()
        array = _array_of(img)
        is_rgb = array.ndim == 3 and array.shape[0] == 3
        if is_rgb and self._hue_first:
            array = shift_hue(array, self._shift)
        array = adjust_brightness(array, self._factor)
        if is_rgb and not self._hue_first:
            array = shift_hue(array, self._shift)
        return convert_to_dst_type(array, img)[0]


class RandFixedKernelBlur(Randomizable, Transform):
    """Gaussian blur of random strength with a kernel of fixed size.

    MONAI's `RandGaussianSmooth` lets the kernel grow with sigma; the published one stays 9 high and 5 wide.

    Args:
        kernel_size: odd size along each axis, height first; for a volume the last one serves all further axes.
        sigma: range of the standard deviation in pixels, drawn uniformly.

    Shape:
        (C, *spatial) -> the same

    Raises:
        ValueError: when a kernel size is even, the ends of the range are swapped, or an image holds whole numbers.

    Reference:
        Kazerouni et al. 2023, arXiv 2311.13069, section 2, and the published code.
    """

    def __init__(self, kernel_size: Sequence[int] = (9, 5), sigma: float | Sequence[float] = (0.1, 5.0)) -> None:
        if any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f"kernel_size must be odd along each axis, got {tuple(kernel_size)}")
        self.kernel_size = tuple(kernel_size)
        self.sigma = _as_range(sigma, "sigma")

    def randomize(self, data: Any = None) -> None:
        """Draws sigma."""
        self._sigma = self.R.uniform(*self.sigma)

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Returns the blurred image, as the type that came."""
        if randomize:
            self.randomize()
        array = _array_of(img)
        spatial_dims = array.ndim - 1
        kernel_size = (self.kernel_size + self.kernel_size[-1:] * spatial_dims)[:spatial_dims]
        return convert_to_dst_type(blur(array, kernel_size, self._sigma), img)[0]


class _RandMap(Randomizable, MapTransform):
    """Applies one random array transform to each key, with draws of its own for each."""

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _RandMap:
        super().set_random_state(seed, state)
        self.transform.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self.transform(sample[key])
        return sample


class RandColorJitterd(_RandMap):
    """Dictionary version of `RandColorJitter`."""

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float | Sequence[float] = 1.4,
        hue: float | Sequence[float] = 0.06,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandColorJitter(brightness, hue), allow_missing_keys)


class RandFixedKernelBlurd(_RandMap):
    """Dictionary version of `RandFixedKernelBlur`."""

    def __init__(
        self,
        keys: KeysCollection,
        kernel_size: Sequence[int] = (9, 5),
        sigma: float | Sequence[float] = (0.1, 5.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandFixedKernelBlur(kernel_size, sigma), allow_missing_keys)
