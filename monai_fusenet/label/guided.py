"""A fit that uses strokes of a person, and the mask from it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.inferers.fit import resized_scribble
from monai_fusenet.losses.scribble import NO_SCRIBBLE
from monai_fusenet.transforms.acquisition import field_of
from monai_fusenet.utils.arrays import box_of, plain
from monai_fusenet.utils.scores import merged, upsampled_argmax

__all__ = ["draw_points", "guided_mask"]

OBJECT, BACKGROUND = 0, 1  # classes; strokes on the object alone are classes without a gap, too


def draw_points(
    shape: Sequence[int], foreground: Iterable[Sequence[int]], background: Iterable[Sequence[int]]
) -> np.ndarray:
    """A label map (*shape) of points on the object and on the background, as `guided_mask` takes it.

    Args:
        shape: spatial shape of the image.
        foreground: indices of pixels of the object, which win over those of the background.
        background: indices of pixels of the background.
    """
    scribble = np.full(shape, NO_SCRIBBLE, dtype=np.uint8)
    for value, points in ((BACKGROUND, background), (OBJECT, foreground)):
        indices = np.asarray(list(points), dtype=int).reshape(-1, len(shape))
        scribble[tuple(indices.T)] = value
    return scribble


def guided_mask(
    sample: Mapping[Hashable, Any], scribble: np.ndarray, network: nn.Module, inferer: PerImageInferer, device: str
) -> np.ndarray:
    """The mask (*spatial), bool, of the object in an image, from a fit that uses strokes on it.

    Args:
        sample: the image after the bundle's preprocessing.
        scribble: label map (*spatial) of the image as it was loaded, see `draw_points`.
        network: the network to fit.
        inferer: the inferer that fits it.
        device: where to compute.

    Raises:
        ValueError: when no stroke on the object lies within the field of view.
    """
    field = field_of(sample, "field")
    box = tuple(slice(0, side) for side in scribble.shape) if field is None else box_of(field)
    drawn = torch.from_numpy(scribble[box].astype(np.int64))[None, None]
    if not (drawn == OBJECT).any():
        raise ValueError("fit_scribbles: no click or stroke on the object lies within the field of view")
    image = plain(sample["image"]).unsqueeze(0).to(device)
    with torch.no_grad():
        scores = inferer(image, network.to(device), scribble=resized_scribble(drawn, image.shape[2:]))
        original = plain(sample["original"])[(slice(None), *box)].unsqueeze(0)
        labels = upsampled_argmax(merged(network, scores).cpu(), drawn.shape[2:], original)[0].numpy()
    mask = np.zeros(scribble.shape, dtype=bool)
    mask[box] = labels == OBJECT
    return mask if field is None else mask & field
