"""Batch norm written out by hand, as the oracle for losses of scores that end in one.

torch 2.13 on the CPU computes wrong gradients of batch norm, without a word, where the batch is one image and the
gradient that arrives has an unusual layout.
"""

import torch
from torch.nn import functional as F


def by_torch(features):
    return F.batch_norm(features, None, None, training=True)


def by_hand(features):
    axes = [0, *range(2, features.ndim)]
    centred = features - features.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()


def assert_right_behind_a_batch_norm(loss, batch_size, spatial, clusters=6):
    """Compares the gradients of `loss(scores)` where the scores come out of either batch norm."""
    torch.manual_seed(0)
    features = torch.randn(batch_size, clusters, *spatial, dtype=torch.float64)
    gradients = []
    for norm in (by_torch, by_hand):
        leaf = features.clone().requires_grad_()
        loss(norm(leaf)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9 * gradients[1].abs().max().item())
