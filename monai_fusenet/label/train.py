"""The trainings of the app: self-supervised on all images, and supervised on the accepted masks."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monai_fusenet.bundle import FuseNetWorkflow, UnfinishedError, UnfitWeightsError
from monai_fusenet.data import load_image, load_labels_on_grid_of
from monai_fusenet.distillation import AcceptedMasks, read_accepted
from monai_fusenet.label.clustering import FUSENET, bundle_configs
from monai_fusenet.label.feedforward import FeedForwardModel
from monai_fusenet.utils.checks import check_switch, check_whole
from monai_fusenet.utils.errors import failure_reason
from monai_fusenet.utils.files import atomic_path

__all__ = ["AcceptedMasksTraining", "SelfSupervisedTraining"]

logger = logging.getLogger(__name__)

STEPS = 600
MOST_OTHERS = 500  # images without a mask: more take long and say little more


class _Training(TrainTask):
    """What the trainings share: options with defaults, and statistics on disk.

    Args:
        path: where the weights go.
        work_dir: where the training keeps its state.
        description: what users read.
        config: options and their defaults.
    """

    def __init__(self, path: str | Path, work_dir: str | Path, description: str, config: Mapping[str, Any]) -> None:
        super().__init__(description)
        self.path = Path(path)
        self.work_dir = Path(work_dir)
        self._config = {**config, "pretrained": True, "device": device_list()}

    def config(self) -> dict[str, Any]:
        """Options that clients offer."""
        return self._config

    def stats(self) -> dict[str, Any]:
        """What the last training left to say."""
        try:
            return json.loads(self.path.with_suffix(".json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Trains, puts the weights where the inference tasks look for them, and returns statistics."""
        start = time.perf_counter()
        options = {**self._config, **{key: value for key, value in request.items() if key in self._config}}
        check_switch("pretrained", options["pretrained"])
        options["device"] = name_to_device(options["device"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = self.train(datastore, options)
        told |= {"seconds": round(time.perf_counter() - start, 1)}
        with atomic_path(self.path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(told), encoding="utf-8")
        logger.info("trained: %s", told)
        return told

    def train(self, datastore: Datastore, options: Mapping[str, Any]) -> dict[str, Any]:
        """Trains and writes the weights; returns what there is to say."""
        raise NotImplementedError


class SelfSupervisedTraining(_Training):
    """`fusenet_clusters`: one network for all images of the datastore, labelled or not, without any label.

    Fits start from its weights if `weights` is `trained`.
    """

    def __init__(self, path: str | Path, work_dir: str | Path, preset: str, method: str = FUSENET) -> None:
        description = "Self-supervised, on all images of the datastore: labels are not looked at"
        super().__init__(path, work_dir, description, {"max_epochs": 20})
        self.preset = preset
        self.method = method

    def train(self, datastore: Datastore, options: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the bundle's workflow `training` on the images of one number of axes; all others count as left out."""
        check_whole("max_epochs", options["max_epochs"], 1)
        images = datastore.list_images()
        items, spatial_dims = items_of_a_kind(datastore, images)
        files = bundle_configs("train", self.preset, spatial_dims, self.method)
        overrides = {name: options[name] for name in ("max_epochs", "device")}
        if options["pretrained"] and self.path.is_file():
            overrides["checkpoint"] = str(self.path)
        workflow = FuseNetWorkflow(
            files,
            logging_file=False,
            workflow_type="train",
            run_id="training",
            items=items,
            output_dir=str(self.work_dir),
            overwrite=True,
            **overrides,
        )
        unread = 0
        try:
            workflow.initialize()
            workflow.run()
        except UnfitWeightsError as error:
            raise ValueError(f"{error}; train with pretrained false to start anew") from error
        except UnfinishedError:  # some images could not be read
            unread = len(workflow.parser.get_parsed_content("train#dataset").failures)
        with atomic_path(self.path) as temporary:
            shutil.copyfile(self.work_dir / "model.pt", temporary)
        used = len(items) - unread
        return {"images": used, "left_out": len(images) - used, "epochs": options["max_epochs"]}


class AcceptedMasksTraining(_Training):
    """`fusenet_feedforward`: the network of the workflow `distillation`, trained on accepted masks and its own masks.

    Five masks in a folder of 60 pictures take two to three minutes on two idle cores.
    """

    def __init__(self, model: FeedForwardModel, work_dir: str | Path) -> None:
        description = "The feed-forward network, on the masks that were accepted (label tag final) and on all images"
        super().__init__(model.path, work_dir, description, {"steps": STEPS})
        self.model = model

    def train(self, datastore: Datastore, options: Mapping[str, Any]) -> dict[str, Any]:
        """Trains on the accepted masks, and on all other images with the network's own masks.

        Masks of other grids are brought to those of their images. The number of axes is that of most images with an
        accepted mask. Of the others, at most 500 take part, drawn by the seed of the app.

        Returns:
            `images`: the number of accepted masks used, including empty ones. `left_out`: the number not used, because
            they or their image cannot be read or used, do not overlap, or the image has another number of axes.
            `steps`; and the results of `FeedForwardModel.train`.

        Raises:
            ValueError: when no mask is accepted yet, or none can be used; and as `FeedForwardModel.train`.
        """
        check_whole("steps", options["steps"], 1)
        labelled = datastore.get_labeled_images()
        if not labelled:
            raise ValueError("no mask is accepted yet: save labels with the tag final, then train")
        items, spatial_dims = items_of_a_kind(datastore, labelled)
        accepted = accepted_masks(datastore, items)
        others = sorted(set(datastore.list_images()) - set(labelled))
        if len(others) > MOST_OTHERS:
            logger.info("%d of %d images without an accepted mask take part, drawn by seed", MOST_OTHERS, len(others))
            others = sorted(random.Random(self.model.seed).sample(others, MOST_OTHERS))
        items += [item_of(datastore, image) for image in others]
        told = self.model.train(
            items, accepted, spatial_dims, self.work_dir, options["steps"], options["device"], options["pretrained"]
        )
        return {"left_out": len(labelled) - told["images"], "steps": options["steps"], **told}


def accepted_masks(datastore: Datastore, items: Sequence[Mapping[str, Any]]) -> AcceptedMasks:
    """The accepted masks of images that can be used; the log names all others and says why.

    Raises:
        ValueError: when none can be used, or as `read_accepted`.
    """
    paths, reasons = {}, []
    for item in items:
        path = datastore.get_label_uri(item["name"], DefaultLabelTag.FINAL)
        try:
            load_labels_on_grid_of(path, load_image(item["image"]))
        except (ValueError, OSError) as error:  # one bad mask must not end the training on all others
            reasons.append(f"{item['name']}: {failure_reason(error)}")
            logger.warning("left out the accepted mask of %s", reasons[-1])
            continue
        paths[item["name"]] = path
    if not paths:
        raise ValueError(f"none of the {len(items)} accepted masks can be used; the first, of {reasons[0]}")
    return read_accepted(paths)


def items_of_a_kind(datastore: Datastore, images: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Images of a datastore as samples, of the number of axes that most of them have, and that number.

    Raises:
        ValueError: when there is none that can be read.
    """
    by_axes: dict[int, list[dict[str, Any]]] = {}
    for image in sorted(images):
        try:
            axes = load_image(datastore.get_image_uri(image)).ndim - 1
        except ValueError as error:
            logger.warning("left out %s: %s", image, error)
            continue
        by_axes.setdefault(axes, []).append(item_of(datastore, image))
    if not by_axes:
        raise ValueError(f"none of the {len(images)} images of the datastore can be read")
    spatial_dims, items = max(by_axes.items(), key=lambda pair: len(pair[1]))
    return items, spatial_dims


def item_of(datastore: Datastore, image: str) -> dict[str, Any]:
    """An image of a datastore as a sample."""
    path = datastore.get_image_uri(image)
    return {"image": path, "file": os.path.basename(path), "name": image}
