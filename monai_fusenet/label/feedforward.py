"""The feed-forward network of the app: that of the workflow `distillation`, taught by masks that people accepted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from monai_fusenet.data import load_image
from monai_fusenet.distillation import Distiller, Round
from monai_fusenet.handlers.checkpoint import load_tensors, save_tensors
from monai_fusenet.label.clustering import bundle_configs, read_configs
from monai_fusenet.utils.errors import failure_reason

__all__ = ["FeedForwardModel"]

logger = logging.getLogger(__name__)


class FeedForwardModel:
    """The network, its weights on disk, and how it is trained and used.

    Args:
        path: where the weights are, or will be after the first training.
        preset: what kind of image it is.
    """

    def __init__(self, path: str | Path, preset: str) -> None:
        self.path = Path(path)
        self.preset = preset
        self._loaded: tuple[float, int, nn.Module] | None = None
        self._parsers: dict[int, ConfigParser] = {}

    def predict(self, path: str | Path, device: str = "cpu") -> MetaTensor:
        """The mask of an image on its own grid: (1, *spatial), 0 or 1.

        Raises:
            ValueError: when there are no weights, they were trained on images of another number of axes, or the image
                cannot be read.
        """
        if not self.path.is_file():
            raise ValueError("there is no trained network yet: accept some masks and run the training first")
        spatial_dims = load_image(path).ndim - 1
        parser, network = self._parser(spatial_dims), self._network(spatial_dims)
        try:
            sample = parser.get_parsed_content("student#preprocessing")({"image": str(path)})
            with torch.no_grad():
                image = torch.as_tensor(sample["image"]).unsqueeze(0).to(device)
                sample["pred"] = parser.get_parsed_content("student#inferer")(image, network.to(device))[0].cpu()
            return parser.get_parsed_content("student#postprocessing")(sample)["pred"]
        except RuntimeError as error:
            raise ValueError(failure_reason(error)) from error

    def train(
        self,
        items: Sequence[Mapping[str, Any]],
        masks_dir: str | Path,
        output_dir: str | Path,
        steps: int,
        device: str = "cpu",
        pretrained: bool = True,
    ) -> Round:
        """Trains on masks, from the weights that are there or from fresh ones, and puts the weights on disk.

        Args:
            items: images of one number of axes, each with `image`, `file` and `name`.
            masks_dir: folder of their masks `<name>_mask.*`.
            output_dir: where the training keeps its state.
            steps: optimisation steps.
            device: where to run.
            pretrained: go on from the weights that are there.
        """
        spatial_dims = load_image(items[0]["image"]).ndim - 1
        parser = self._parser(spatial_dims)
        parts = {
            name: parser.get_parsed_content(f"student#{name}")
            for name in ("preprocessing", "augmentation", "inferer", "mask", "loss_function")
        }
        network = parser.get_parsed_content("student_def")
        if pretrained and self.path.is_file():
            network = self._network(spatial_dims)
        distiller = Distiller(
            network=network,
            in_channels=parser.get_parsed_content("in_channels"),
            size=parser.get_parsed_content("student_size"),
            output_dir=output_dir,
            device=device,
            settings={},
            rounds=1,
            round_steps=steps,
            batch_size=parser.get_parsed_content("batch_size"),
            learning_rate=parser.get_parsed_content("learning_rate"),
            overwrite=True,
            **parts,
        )
        (result,) = distiller.run(items, [Path(masks_dir)])
        weights = {name: value.cpu() for name, value in network.state_dict().items()}
        save_tensors({"spatial_dims": spatial_dims, "network": weights}, self.path)
        return result

    def _parser(self, spatial_dims: int) -> ConfigParser:
        if spatial_dims not in self._parsers:
            self._parsers[spatial_dims] = read_configs(bundle_configs("distill", self.preset, spatial_dims))
        return self._parsers[spatial_dims]

    def _network(self, spatial_dims: int) -> nn.Module:
        """The network with the weights on disk, read again when these are new."""
        changed = self.path.stat().st_mtime
        if self._loaded is None or self._loaded[0] != changed:
            state = load_tensors(self.path)
            network = self._parser(state["spatial_dims"]).get_parsed_content("student_def")
            network.load_state_dict(state["network"])
            self._loaded = (changed, state["spatial_dims"], network.eval())
        if self._loaded[1] != spatial_dims:
            raise ValueError(
                f"the trained network is for images of {self._loaded[1]} axes, and this one has {spatial_dims}"
            )
        return self._loaded[2]
