"""Attention whose cost is linear in the number of pixels: all information passes through a small matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_fusenet.utils.precision import at_least_float32

__all__ = ["collected", "context_of", "efficient_attention"]


def collected(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted values that the keys of a part of the pixels collect.

    Args:
        keys: (..., N, d), float32 at least: sums over many pixels need this precision.
        values: (..., N, e), of the same type.

    Returns:
        greatest key (..., 1, d), sum of the weights relative to it (..., 1, d), weighted values (..., d, e)
    """
    greatest = keys.detach().amax(dim=-2, keepdim=True)
    weights = (keys - greatest).exp()
    return greatest, weights.sum(dim=-2, keepdim=True), weights.transpose(-2, -1) @ values


def context_of(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The values of all pixels, weighted by the softmax of the keys over the pixels: (..., d, e).

    Args:
        parts: what `collected` returns for each part of the pixels.
    """
    greatest = torch.stack([part[0] for part in parts])
    shares = (greatest - greatest.amax(dim=0)).exp()
    weights = (shares * torch.stack([part[1] for part in parts])).sum(0)
    values = (shares.transpose(-2, -1) * torch.stack([part[2] for part in parts])).sum(0)
    return values / weights.transpose(-2, -1)


def efficient_attention(keys: Tensor, queries: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Lets each pixel collect information from all pixels, through a context of fixed size.

    G = softmax(K)^T V with the softmax over pixels; A = softmax(Q) G with the softmax over features.

    Args:
        keys: K, (B, N, d).
        queries: Q, (B, N, d).
        values: V, (B, N, e).

    Returns:
        attended A, (B, N, e), and context G, (B, d, e). Row i of G is a mean of the values over the pixels, weighted by
        feature i of the keys. Both have the type of the values.

    Reference:
        Shen et al. 2021, "Efficient Attention: Attention with Linear Complexities", arXiv 1812.01243.
    """
    context = context_of([collected(at_least_float32(keys), at_least_float32(values))]).to(values.dtype)
    return queries.softmax(dim=-1) @ context, context
