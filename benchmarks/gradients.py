"""What each term of each method teaches at the first step, and where: `python -m benchmarks.gradients IMAGE`.

For the published form of each method and for our default, with the image as the workflow `inference` prepares it and a
new network of seed 0: the value of each weighted term, and the norm of its gradient at the parts of the network. "none"
means that no gradient arrives at all. Writes `gradients.md` into `benchmarks/results/`. Half a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from benchmarks.__main__ import RESULTS
from monai_fusenet.inferers.fit import draw_views
from monai_fusenet.shipped import config_files

FORMS: dict[str, tuple[str, ...]] = {
    "FuseNet, as published": ("paper",),
    "FuseNet, default": (),
    "MS-Former, as published": ("msformer_paper",),
    "MS-Former, default": ("msformer",),
    "S3-Net, as published": ("s3net_paper",),
    "S3-Net, default": ("s3net",),
    "feature clustering, as published": ("feature_clustering_paper",),
    "feature clustering, default": ("feature_clustering",),
}
# Beginnings of parameter names. Parts that a form lacks are left out; together they are the whole network.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "FuseNet": {
        "encoder": ("encoder.",),
        "token heads": ("image_head.", "augmented_head."),
        "patch projections": ("image_patches.", "augmented_patches."),
        "fusion: attention": ("fusion.norm1.", "fusion.reprojection.", "fusion.attention_norm."),
        "fusion: feed-forward": ("fusion.norm2.", "fusion.feed_forward."),
    },
    "MS-Former": {
        **{
            f"{branch}: {part}": tuple(f"{branch}.{name}" for name in names)
            for branch in ("fine", "coarse")
            for part, names in {
                "embedding": ("conv.", "norm."),
                "first block": ("blocks.0.", "norms.0."),
                "last block, keys and values": ("blocks.1.norm1.", "blocks.1.keys.", "blocks.1.values."),
                "last block, all else": (
                    *("blocks.1.queries.", "blocks.1.reprojection."),
                    *("blocks.1.norm2.", "blocks.1.feed_forward.", "norms.1."),
                ),
            }.items()
        },
        "expansion and head": ("expansion.", "head."),
        "patch projection": ("patches.",),
    },
    "S3-Net": {
        "stem": ("stem.", "stem_norm."),
        "large-kernel attention": ("attention.", "attention_norms."),
        "deformable weight": ("deformable.weight",),
        "deformable offsets": ("deformable.offset",),
        "deformable modulation": ("deformable.modulation",),
        "prediction of offsets": ("deformable.prediction.",),
        "main head": ("deformable_norm.", "head.", "head_norm."),
        "auxiliary head": ("auxiliary.", "auxiliary_norm."),
    },
    "feature clustering": {
        "first block": ("blocks.0.",),
        "second block": ("blocks.1.",),
        "projection and last norm": ("projection.", "norm."),
    },
}


class Part(NamedTuple):
    """A part of a network: how many parameters it has, and the norm of each term's gradient there (`None`: none)."""

    parameters: int
    norms: dict[str, float | None]


class Measured(NamedTuple):
    """A form of a method at its first step: its weighted terms, and its parts by their titles."""

    size: tuple[int, ...]
    values: dict[str, float]
    parts: dict[str, Part]


def measure(title: str, image: Path, options: Mapping[str, object]) -> Measured:
    """A form of `FORMS` on an image; `options` are those of the workflow `inference`."""
    parser = ConfigParser()
    parser.read_config(config_files("inference", *FORMS[title]))
    parser.update({"device": "$torch.device('cpu')", **options})
    preprocessing, loss, augmentation = (
        parser.get_parsed_content(name) for name in ("preprocessing", "loss_function", "augmentation")
    )
    pixels = preprocessing({"image": str(image)})["image"].as_tensor().unsqueeze(0)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").train()
    views = draw_views(augmentation, pixels, pixels.shape[2:], 0)
    values, gradients = {}, {}
    for name in loss.terms(_output(network, views), views)._fields[1:]:
        term = getattr(loss.terms(_output(network, views), views), name)
        values[name] = term.item()
        gradients[name] = _gradients(term, network)
    if values.get("scribble") == 0:  # nobody drew one
        del values["scribble"], gradients["scribble"]
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    parts = {}
    for part, beginnings in PARTS[title.split(",")[0]].items():
        own = [name for name in counts if name.startswith(beginnings)]
        if own:
            norms = {term: _norm([found[name] for name in own if name in found]) for term, found in gradients.items()}
            parts[part] = Part(sum(counts.pop(name) for name in own), norms)
    if counts:
        raise ValueError(f"no part of {title} has the parameters {', '.join(counts)}")
    return Measured(tuple(pixels.shape[2:]), values, parts)


def _output(network: nn.Module, views: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """A forward pass of its own for each term: its graph is freed with it, and its dropout is the same."""
    torch.manual_seed(0)
    return network(views["image"], views.get("augmented", views["image"]))


def _gradients(term: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Gradients of the parameters that the term reaches."""
    if not term.requires_grad:
        return {}
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, allow_unused=True)
    return {name: one for name, one in zip(names, found, strict=True) if one is not None and one.any()}


def _norm(gradients: Sequence[Tensor]) -> float | None:
    return torch.stack([one.norm() for one in gradients]).norm().item() if gradients else None


def table(measured: Measured) -> str:
    """Terms in columns, parts in rows, as Markdown."""
    lines = [f"| | parameters | {' | '.join(name.replace('_', ' ') for name in measured.values)} |"]
    lines.append("|---" * (2 + len(measured.values)) + "|")
    total = sum(part.parameters for part in measured.parts.values())
    lines.append(f"| weighted value | {total:,} | {' | '.join(f'{one:.3g}' for one in measured.values.values())} |")
    for title, part in measured.parts.items():
        norms = ["none" if one is None else f"{one:.2g}" for one in part.norms.values()]
        lines.append(f"| {title} | {part.parameters:,} | {' | '.join(norms)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("image", type=Path, help="a picture")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(arguments)
    head = f"`python -m benchmarks.gradients {given.image.name}`: norms of gradients at the first step, seed 0."
    lines = [head]
    for title in FORMS:
        measured = measure(title, given.image, {})
        lines += ["", f"## {title}, {' x '.join(map(str, measured.size))}", "", table(measured)]
    text = "\n".join([*lines, ""])
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "gradients.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
