"""Masks of any common form: label maps, black and white, palettes, colours, transparency, probabilities."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch.nn import functional as F

from monai_fusenet.data.preparation import without_alpha
from monai_fusenet.data.raster import Raster
from monai_fusenet.data.reading import read_raster, to_tensor
from monai_fusenet.utils.arrays import tensor_of
from monai_fusenet.utils.errors import printable

__all__ = ["WHITE", "UnionMaskd", "foreground_of", "load_labels", "load_mask"]

WHITE = 255  # the label of what a mask shows as foreground and not as a class
MOST_LABELS = 2**16 - 1  # labels go up to here, those of 32 bits too
_WHITE = (1, WHITE, 2**16 - 1)  # of probabilities, 8 and 16 bits
_NEAR = 1 / 8  # of the way between black and white: as far as the noise of JPEG goes from either
_LABELS = 0.55  # of the pixels of labels at least have their like beside them, of those of edges and JPEG at most half
_DARK_LABELS = 0.8  # of them if all are near black, as is the noise of JPEG beside straight edges
_JPEG_LIKE = 1 / 32  # of the way between black and white, by which values of one area differ


def load_mask(path: str | os.PathLike) -> MetaTensor:
    """Loads one mask, in any format that `load_image` reads and in any common form.

    - Integers are classes or instances: foreground is above 0. NaN and -1, which often means "ignore", are background.
    - A black-and-white picture with smooth edges, or one that was a JPEG: foreground begins in the middle between the
      most frequent dark and the most frequent bright value, where the latter is at least half of 255 or 65535. A
      picture of two values is black and white, too. Such a picture differs from a label map: in a label map, most
      pixels of other values have an equal neighbour, or no brighter one; in smooth edges, few have. Labels in ordered
      stripes one pixel wide are therefore taken for smooth edges.
    - JPEG: the same, for any values; with grey levels between, foreground begins an eighth above the dark value.
    - Fractions: foreground from 0.5 on, for probabilities and for interpolated label maps.
    - Palettes: if all colours are grey, it is a grey picture, so black is background, whatever the order of the
      palette. If there are other colours, the index counts, and index 0 is background.
    - A TIFF where white is zero: values as they are seen; those of ImageJ, and small numbers, as they are stored.
    - Several channels, also RGB: foreground is where any of them is foreground. Channels that sum to 1, or to 255,
      everywhere are probabilities of classes, with the background first.
    - Transparency is ignored, unless the colours alone make everything foreground, or nothing: then the opaque
      part is foreground.

    If no pixel is 0, label maps and colours are foreground everywhere: an object on white paper is not found.

    Args:
        path: path of the mask; `load_mask_on_grid_of` joins several.

    Returns:
        A uint8 `MetaTensor` of shape (1, *spatial), 0 and 1, with the metadata of `load_image`.

    Raises:
        ValueError: if the file cannot be loaded.
    """
    raster = read_raster(str(path), nearest=True)
    loaded = to_tensor(raster._replace(pixels=foreground_of(raster)[0][None], has_alpha=False), str(path))
    return MetaTensor(loaded.as_tensor().to(torch.uint8), meta=loaded.meta)


def load_labels(path: str | os.PathLike) -> MetaTensor:
    """Loads the labels of one mask, with the foreground of `load_mask`.

    Integers and the indices of a palette are used as labels. For probabilities of classes, the label is the likeliest
    class. Other numbers are rounded. Soft edges, JPEG, single probabilities, several colours and transparency only
    separate foreground from background: their foreground has the label 255, as in black-and-white pictures.

    Args:
        path: path of the mask; `load_labels_on_grid_of` brings it to the grid of its image.

    Returns:
        An int32 `MetaTensor` of shape (1, *spatial), 0 and labels up to 65535, with the metadata of `load_image`.

    Raises:
        ValueError: if the file cannot be loaded, or a label is above 65535.
    """
    raster = read_raster(str(path), nearest=True)
    foreground, classes = foreground_of(raster)
    labels = foreground * np.int32(WHITE)
    if classes is not None:
        rounded = np.floor(classes[foreground].astype(np.float64) + 0.5)
        if rounded.max(initial=0) > MOST_LABELS:
            raise ValueError(
                f"cannot read {printable(path)}: expected labels up to {MOST_LABELS}, got {rounded.max():g}"
            )
        labels[foreground] = rounded.astype(np.int32)
    loaded = to_tensor(raster._replace(pixels=labels[None], has_alpha=False), str(path))
    return MetaTensor(loaded.as_tensor().to(torch.int32), meta=loaded.meta)


class UnionMaskd(MapTransform):
    """Turns a loaded label into a mask: foreground is where any channel is above 0, for all classes together.

    Transparency (`meta["has_alpha"]`) does not count as a channel. For files use `load_mask`, which supports more
    forms.

    Args:
        keys: keys of labels.
        allow_missing_keys: whether samples may lack a key.

    Shape:
        (C, *spatial) -> (1, *spatial), uint8, 0 or 1
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with masks in the place of labels."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = (without_alpha(tensor_of(sample[key])) > 0).any(0, keepdim=True).to(torch.uint8)
        return sample


def foreground_of(raster: Raster) -> tuple[np.ndarray, np.ndarray | None]:
    """The foreground of a mask (*grid), bool, and its labels there; `None` if it has no classes."""
    if raster.indices is not None and not _is_grey(raster.pixels, raster.indices):
        return raster.indices[0] > 0, raster.indices[0]
    if raster.labels is not None:
        return _above(raster.labels, raster.lossy)
    colours = raster.pixels[:-1] if raster.has_alpha else raster.pixels
    if _are_shares(colours):
        return colours[0] < colours.sum(axis=0) / 2, 1 + colours[1:].argmax(axis=0)
    mask, labels = _above(colours, raster.lossy)
    if raster.has_alpha and mask.min() == mask.max() and np.ptp(raster.pixels[-1]) > 0:
        return _above(raster.pixels[-1:], raster.lossy)[0], None
    return mask, labels


def _is_grey(colours: np.ndarray, indices: np.ndarray) -> bool:
    """Whether the colours (C, *grid) of a palette are greys, and not one grey for different indices (1, *grid)."""
    grey = colours[0]
    return bool((colours[:3] == grey).all()) and (np.ptp(grey) > 0 or np.ptp(indices) == 0)


def _are_shares(channels: np.ndarray) -> bool:
    """Whether several channels (C, *grid) are probabilities of classes, which sum to 1, or to 255 in 8 bits."""
    total = channels.sum(axis=0, dtype=np.float64)
    return len(channels) > 1 and any(np.allclose(total, one, rtol=0.01, atol=0) for one in (1, 255))


def _above(channels: np.ndarray, lossy: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Where values (C, *grid) are above the threshold of their kind, see `load_mask`; themselves where they are labels.

    Different channels are colours, which tell no classes.
    """
    values = channels.max(axis=0)
    labels = values if (channels == values).all() else None
    finite = values[np.isfinite(values)]
    top = finite.max(initial=0)
    white = next((white for white in _WHITE if top <= white), None)
    if top <= 0 or white is None:
        return values > 0, labels
    black, bright = _plateaus(finite)
    if lossy and black == bright:
        return values > white * _NEAR, None  # black may come back as a little more
    if lossy or (white > 1 and bright >= white / 2):
        if not _are_labels(values, black, bright, (bright - black) * _JPEG_LIKE * lossy):
            return values >= (black + bright) / 2, None
        if lossy:
            return values > black + (bright - black) * _NEAR, None
    fractions = bool(((finite > 0) & (finite < 1)).any())
    return values >= _WHITE[0] / 2 if fractions else values > 0, labels


def _plateaus(values: np.ndarray) -> tuple[float, float]:
    """The commonest of the darker half of values (n,), and the commonest of the brightest eighth."""
    levels, counts = np.unique(values, return_counts=True)
    levels = levels.astype(float)
    least, greatest = levels[0], levels[-1]
    dark, bright = levels <= (least + greatest) / 2, levels >= greatest - (greatest - least) * _NEAR
    return float(levels[dark][counts[dark].argmax()]), float(levels[bright][counts[bright].argmax()])


def _are_labels(values: np.ndarray, black: float, white: float, tolerance: float) -> bool:
    """Whether values (*grid) that are neither near black nor near white belong to objects, and not to soft edges.

    A pixel of an object is one of a square of 2 x 2 equal pixels, or no neighbour is brighter: so are most if they are
    labels. On edges, and in the noise of JPEG, few are. Looks along the two longest axes of the grid. Where no value
    lies between, those near black count: they are labels such as 1 and 2, or noise.

    Args:
        values: (*grid).
        black: the commonest dark value.
        white: the commonest bright one.
        tolerance: by which values of one object may differ.
    """
    near = (white - black) * _NEAR
    others = (values != black) & (values < white - near)
    if not others.any():
        return False
    longest = sorted(np.argsort(values.shape)[-2:])
    moved = np.moveaxis(values, longest, (-2, -1))
    planes = torch.from_numpy(moved.reshape(-1, 1, *moved.shape[-2:]).astype(np.float32))
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    squares = F.max_pool2d(padded, 2, 1) + F.max_pool2d(-padded, 2, 1) <= tolerance
    in_square = F.max_pool2d(squares.float(), 2, 1) > 0
    brightest = F.max_pool2d(padded, 3, 1) - planes <= tolerance
    alike = np.moveaxis((in_square | brightest).numpy().reshape(moved.shape), (-2, -1), longest)
    between = others & (values > black + near)
    if not between.any():
        is_noisy = bool((values[values >= white - near] != white).any())  # JPEG changes white, too
        return not is_noisy and alike[others].mean() >= _DARK_LABELS
    return min(alike[others].mean(), alike[between].mean()) >= _LABELS
