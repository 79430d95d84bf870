"""The feed-forward network of the app: that of the workflow `distillation`, trained on accepted masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from monai_fusenet.bundle import UnfitWeightsError, initial_network
from monai_fusenet.distillation import AcceptedMasks, Distiller, steps_of_round
from monai_fusenet.handlers.checkpoint import load_tensors, save_tensors
from monai_fusenet.label.clustering import axes_of, bundle_configs, read_configs
from monai_fusenet.utils.errors import failure_reason

__all__ = ["FeedForwardModel"]


class Known(NamedTuple):
    """The purpose of the weights on disk.

    Attributes:
        spatial_dims: number of axes of an image.
        classes: values of the classes in label maps, ascending; (1,) if all foreground is one class.
        objects: largest number of objects in an accepted mask; `None`: any number.
        confidence_power: see `MaskConfidenced`; 1 if there was no accepted mask to compute it from.
    """

    spatial_dims: int
    classes: tuple[int, ...]
    objects: int | None
    confidence_power: float = 1.0


class Predicted(NamedTuple):
    """The prediction of the network for an image.

    Attributes:
        mask: (1, *spatial) on the image's own grid, 0 and 1, or 0 and the classes where there are several.
        classes: the values that stand for objects.
        confidence: in [0, 1], the Dice to expect; `None` for an empty mask.
    """

    mask: MetaTensor
    classes: tuple[int, ...]
    confidence: float | None


class Loaded(NamedTuple):
    """A network that was read from disk, with the state of its file."""

    changed: float
    known: Known
    parser: ConfigParser
    network: nn.Module


class FeedForwardModel:
    """The network, its weights on disk, and how it is trained and used.

    Args:
        path: path of the weights, which exist after the first training.
        preset: what kind of image it is.
        seed: seed of all random numbers in a training.
    """

    def __init__(self, path: str | Path, preset: str, seed: int = 0) -> None:
        self.path = Path(path)
        self.preset = preset
        self.seed = seed
        self._loaded: Loaded | None = None

    def predict(self, path: str | Path, device: str = "cpu") -> Predicted:
        """The mask of an image, and how sure the network is of it.

        Raises:
            ValueError: when no weights fit, they were trained on images with another number of axes, or the image
                cannot be read.
        """
        loaded = self._load()
        check_axes(loaded.known, axes_of(path))
        parser = loaded.parser
        try:
            sample = parser.get_parsed_content("student#preprocessing")({"image": str(path)})
            with torch.no_grad():
                image = torch.as_tensor(sample["image"]).unsqueeze(0).to(device)
                sample["pred"] = parser.get_parsed_content("student#inferer")(image, loaded.network.to(device))[0].cpu()
            sample = parser.get_parsed_content("student#postprocessing")(sample)
            return Predicted(sample["pred"], loaded.known.classes, sample["confidence"])
        except RuntimeError as error:
            raise ValueError(failure_reason(error)) from error

    def train(
        self,
        items: Sequence[Mapping[str, Any]],
        accepted: AcceptedMasks,
        spatial_dims: int,
        output_dir: str | Path,
        steps: int,
        device: str = "cpu",
        pretrained: bool = True,
    ) -> dict[str, Any]:
        """Trains as the workflow `distillation` does with accepted masks, and puts the weights on disk.

        Args:
            items: images, each with `image`, `file` and `name`, those with an accepted mask among them.
            accepted: their masks.
            spatial_dims: number of axes of an image; others are left out.
            output_dir: folder for the state of the training.
            steps: optimisation steps of all rounds and of all networks that leave masks out; each training among them
                is filled up to whole epochs.
            device: where to run.
            pretrained: continue from existing weights, if any.

        Returns:
            `images`: the number of accepted masks used; `agreement` of the last round, see `Round`; and for two or more
            masks, `expected_dice` and `spread`, see `Expectation`.

        Raises:
            ValueError: when existing weights do not fit, or as `Distiller.run`.
        """
        known = Known(spatial_dims, accepted.classes, accepted.objects)
        weights = self._weights_to_go_on_from(known) if pretrained and self.path.is_file() else None
        options = {"results_dir": str(output_dir), "device": device, "overwrite": True, "distiller#settings": {}}
        parser = self._read(spatial_dims, accepted, **options)
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)
            distiller: Distiller = parser.get_parsed_content("distiller")
        distiller.round_steps = steps_of_round(steps, distiller.rounds, len(accepted.paths))
        distiller.check_continuable(items)
        last = distiller.run(items, [], accepted, weights)[-1]
        trained = {name: value.cpu() for name, value in distiller.network.state_dict().items()}
        known = known._replace(confidence_power=distiller.confidence_power or 1.0)
        save_tensors({**known._asdict(), "network": trained}, self.path)
        expected = read_expectation(Path(output_dir))
        images = len(expected.pop("held_out", [])) or 1  # each mask that teaches is held out, unless it is alone
        return {"images": images, "agreement": round(last.agreement, 4), **expected}

    def _read(self, spatial_dims: int, accepted: AcceptedMasks, **options: Any) -> ConfigParser:
        """The config of the workflow, as it is with these accepted masks."""
        files = bundle_configs("distill", self.preset, spatial_dims)
        return read_configs(files, seed=self.seed, accepted=accepted, **options)

    def _weights_to_go_on_from(self, known: Known) -> dict[str, torch.Tensor]:
        try:
            loaded = self._load()
            check_axes(loaded.known, known.spatial_dims)
            if loaded.known.classes != known.classes:
                raise ValueError(
                    f"the trained network knows the classes {loaded.known.classes}, and the accepted masks show "
                    f"{known.classes}"
                )
        except ValueError as error:
            raise ValueError(f"{error}; train with pretrained false to start anew") from error
        return loaded.network.state_dict()

    def _load(self) -> Loaded:
        """The network with the weights on disk, read again when these are new."""
        if not self.path.is_file():
            raise ValueError("there is no trained network yet: accept some masks and run the training first")
        changed = self.path.stat().st_mtime
        if self._loaded is None or self._loaded.changed != changed:
            known = read_known(self.path)
            shown = AcceptedMasks(paths={}, classes=known.classes, digest="", objects=known.objects)
            parser = self._read(known.spatial_dims, shown, confidence_power=known.confidence_power)
            try:
                network = initial_network(parser.get_parsed_content("student_def"), self.path, "cpu")
            except UnfitWeightsError as error:
                raise ValueError(f"the trained network is that of another preset: {error}") from error
            self._loaded = Loaded(changed, known, parser, network.eval())
        return self._loaded


def read_known(path: Path) -> Known:
    """The purpose of weights on disk; raises `ValueError` unless a training of this app has written them."""
    state = load_tensors(path)
    try:
        return Known(state["spatial_dims"], tuple(state["classes"]), state["objects"], state["confidence_power"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} was not written by this version: run the training anew") from error


def check_axes(known: Known, axes: int) -> None:
    """Raises `ValueError` unless the network is for images of so many axes."""
    if known.spatial_dims != axes:
        raise ValueError(f"the trained network is for images of {known.spatial_dims} axes, and this one has {axes}")


def read_expectation(folder: Path) -> dict[str, Any]:
    """The values that `Expectation.write` saved for a training; none if it used a single mask."""
    try:
        return json.loads((folder / "expectation.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
