"""Samples of different sizes in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import pad_list_data_collate
from torch import Tensor
from torch.nn import functional as F

from monai_fusenet.utils.arrays import plain, tensor_of

__all__ = ["collate_views"]

CORRESPONDENCE = "correspondence"


def collate_views(samples: Sequence[Mapping[str, Any]]) -> Any:
    """A batch of samples; smaller images are padded to the largest, on both sides, with their edge values.

    As `monai.data.pad_list_data_collate`, but it also converts a correspondence. This holds numbers of pixels, which
    depend on the size of the image: they become those of the padded grid, and -1 where it was padded.

    Args:
        samples: dictionaries with `image` and optionally `correspondence`, see `RandQuarterTurnViewd`.
    """
    if CORRESPONDENCE in samples[0]:
        maps = [plain(tensor_of(sample[CORRESPONDENCE])) for sample in samples]
        largest = [max(sides) for sides in zip(*(one.shape[1:] for one in maps), strict=True)]
        samples = [
            {**sample, CORRESPONDENCE: _on_padded_grid(one, largest)} for sample, one in zip(samples, maps, strict=True)
        ]
    return pad_list_data_collate(samples, mode="edge")


def _on_padded_grid(correspondence: Tensor, sides: Sequence[int]) -> Tensor:
    """A correspondence (1, *spatial) as that of the same pixels of a grid that is padded to the given sides."""
    numbers, moved = correspondence.clamp(min=0), torch.zeros_like(correspondence)
    stride, margins = 1, []
    for old, new in zip(reversed(correspondence.shape[1:]), reversed(sides), strict=True):
        before = (new - old) // 2
        moved += (numbers % old + before) * stride
        numbers, stride = numbers // old, stride * new
        margins += [before, new - old - before]
    return F.pad(torch.where(correspondence < 0, -1, moved), margins, value=-1)
