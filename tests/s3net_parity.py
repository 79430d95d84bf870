"""Rebuilds the weights and inputs of S3-Net's reference runs (see reference/README.md)."""

import json
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from parity import REFERENCE, _smooth

COLOURS = 100


class Case(NamedTuple):
    weights: dict
    image: torch.Tensor
    colours: torch.Tensor


@cache
def figures():
    with np.load(REFERENCE / "s3net_parity.npz") as archive:
        return dict(archive)


@cache
def recipe():
    return json.loads((REFERENCE / "s3net_parity.json").read_text(encoding="utf-8"))


def _draw(rng, shape, kind, scale):
    if kind in ("zeros", "ones"):
        return np.full(shape, float(kind == "ones"))
    if kind == "uniform":
        return scale * rng.random(shape)
    return float(kind == "one_plus_normal") + scale * rng.standard_normal(shape)


@cache
def inputs():
    """Each case by its name: the weights by the authors' names, the image and the colours; then, of the deformable
    convolution alone: image, weight, offset and modulation. All in float64."""
    rng = np.random.default_rng(recipe()["seed"])
    cases = {}
    for name, case in recipe()["cases"].items():
        weights = {own: torch.from_numpy(_draw(rng, *rest)) for own, *rest in case["order"]}
        image = _smooth(rng.random((1, 3, *case["image_size"])))
        cases[name] = Case(weights, image, torch.from_numpy(rng.integers(0, 255, (COLOURS, 3))))
    deform = [rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((4, 3, 3, 3))]
    deform += [1.5 * rng.standard_normal((2, 18, 5, 6)), rng.random((2, 9, 5, 6))]
    return cases, [torch.from_numpy(part) for part in deform]
