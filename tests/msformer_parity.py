"""Rebuilds weights and image of the reference run of MS-Former (see reference/README.md)."""

import json
from functools import cache

import numpy as np
import torch
from parity import REFERENCE, _smooth


@cache
def recipe():
    return json.loads((REFERENCE / "msformer_parity.json").read_text(encoding="utf-8"))


@cache
def figures():
    with np.load(REFERENCE / "msformer_parity.npz") as archive:
        return dict(archive)


@cache
def inputs():
    """The published weights by the authors' names, and the image, in float64."""
    rng = np.random.default_rng(recipe()["seed"])
    draw = {
        "zeros": lambda shape, _: np.zeros(shape),
        "ones": lambda shape, _: np.ones(shape),
        "normal": lambda shape, scale: scale * rng.standard_normal(shape),
        "one_plus_normal": lambda shape, scale: 1 + scale * rng.standard_normal(shape),
    }
    weights = {name: torch.from_numpy(draw[kind](shape, scale)) for name, shape, kind, scale in recipe()["order"]}
    return weights, _smooth(rng.random((1, 3, 257, 257)))
