"""Rebuilds weights and inputs of the reference runs of feature clustering (see reference/README.md)."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

REFERENCE = Path(__file__).parent / "reference"
CASES = ("plain", "scribble", "batch")


class Case(NamedTuple):
    layers: int
    weights: tuple  # of similarity, continuity and scribble
    state_dict: dict  # by the authors' names
    image: torch.Tensor
    scribble: torch.Tensor | None


@cache
def figures(case):
    with np.load(REFERENCE / "kanezaki_parity.npz") as archive:
        return {key.removeprefix(f"{case}."): archive[key] for key in archive if key.startswith(f"{case}.")}


@cache
def cases():
    recipe = json.loads((REFERENCE / "kanezaki_parity.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(recipe["seed"])
    return {name: _rebuilt(recipe["cases"][name], rng, name == "scribble") for name in CASES}


def _rebuilt(recipe, rng, scribbled):
    state_dict = {name: torch.from_numpy(_drawn(rng, *how)) for name, *how in recipe["order"]}
    height, width = recipe["image_size"]
    images = [_smooth(rng.random((1, 3, height, width))) for _ in range(recipe["batch"])]
    scribble = torch.full((1, 1, height, width), 255)
    scribble[..., 4:6, 3:30], scribble[..., 20:40, 50:53], scribble[..., 40:44, 5:12] = 0, 1, 2
    weights = tuple(recipe["weights"][name] for name in ("sim", "con", "scr"))
    return Case(recipe["conv_blocks"], weights, state_dict, torch.cat(images), scribble if scribbled else None)


def _drawn(rng, shape, kind, scale):
    if kind in ("zeros", "ones"):
        return {"zeros": np.zeros, "ones": np.ones}[kind](shape)
    values = scale * rng.standard_normal(shape)
    return 1 + values if kind == "one_plus_normal" else values


def _smooth(image):
    image = F.avg_pool2d(F.pad(torch.from_numpy(image), (7, 7, 7, 7), mode="reflect"), 15, stride=1)
    return (image - image.min()) / (image.max() - image.min())
