"""Rebuilds the weights and inputs of the published code's reference run (see reference/README.md)."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

REFERENCE = Path(__file__).parent / "reference"


@cache
def figures():
    with np.load(REFERENCE / "fusenet_parity.npz") as archive:
        return dict(archive)


def _smooth(image):
    image = torch.from_numpy(image)
    image = F.avg_pool2d(F.pad(image, (7, 7, 7, 7), mode="reflect"), 15, stride=1)
    return (image - image.min()) / (image.max() - image.min())


@cache
def inputs():
    """The published weights by the authors' names, the image and the augmented view, all in float64."""
    recipe = json.loads((REFERENCE / "fusenet_parity.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(recipe["seed"])
    weights = {}
    for name, shape in recipe["order"]:
        if name.endswith("running_mean"):
            value = np.zeros(shape)
        elif name.endswith("running_var"):
            value = np.ones(shape)
        else:
            value = rng.standard_normal(shape) * 0.2
            if name.endswith("weight") and ("norm" in name or ".bn" in name or name.startswith("bn")):
                value = 1 + value
        weights[name] = torch.from_numpy(value)
    image, augmented = rng.random((1, 3, 256, 256)), rng.random((1, 3, 256, 256))
    return weights, _smooth(image), _smooth(augmented)


def sampled(gradient, kind):
    """A gradient as the figures hold it: whole (`grad`), its norm (`grad_norm`), or 64 of its values (`grad_head`)."""
    if kind == "grad_norm":
        return gradient.norm()
    return gradient.flatten()[:: gradient.numel() // 64][:64] if kind == "grad_head" else gradient
