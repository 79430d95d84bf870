"""The start of a workflow: check options, find folders and images, build the parts that need no data."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigExpression, ConfigParser
from monai.utils import ensure_tuple, set_determinism

from monai_fusenet.bundle.checks import check_options, check_values
from monai_fusenet.bundle.context import Context
from monai_fusenet.bundle.faults import cause_of, edge, end_on_signals, is_told, tell_uncaught
from monai_fusenet.data import find_images, load_image, phantom_images, sample_images
from monai_fusenet.data.claims import available_memory
from monai_fusenet.data.datalist import unique_names
from monai_fusenet.distillation import AcceptedMasks, find_accepted
from monai_fusenet.options.table import BLOCKS
from monai_fusenet.utils import distributed, workers
from monai_fusenet.utils.errors import failure_reason

__all__ = ["accepted_masks", "images", "images_or_phantoms", "resolve_dir", "start", "workers_for"]

logger = logging.getLogger(__name__)

MEMORY_OF_WORKER = 2 * 2**30  # bytes: a fit of a picture with all that surrounds it
OF_ONE_IMAGE = ("monai_fusenet.handlers.results", "monai_fusenet.evaluation.folder")  # what these warn of


def build_components(parser: ConfigParser) -> None:
    """Builds the parts that need no data, so that a wrong value is found before anything is read or written.

    Raises:
        ValueError: names the component that cannot be built, and why.
    """
    for block in BLOCKS:
        if not block.is_built_first or block.name not in parser:
            continue
        try:
            parser.get_parsed_content(block.name)
        except Exception as error:
            cause = cause_of(error)
            if ConfigExpression.is_expression(parser[block.name]) and is_told(cause):  # a function of this package
                raise cause from None
            raise ValueError(f"{block.name} cannot be built: {failure_reason(cause)}") from error


def check_overlay(workflow: Context) -> None:
    """Raises `ValueError` if `train.json` runs without overlay in several processes, or at a site of a federation."""
    if distributed.size() > 1:
        reason, overlay = f"in one process, but {distributed.size()} were started", "multi_gpu_train"
    elif "run_name" in workflow.config:  # by `monai.fl.client.MonaiAlgo`
        reason, overlay = "at one site, with a checkpoint and an end of its own", "federated_train"
    else:
        return
    configs = workflow.configs_dir or "configs"
    raise ValueError(
        f"train.json alone trains {reason}; add the overlay: "
        f"--config_file \"['{configs}/train.json','{configs}/{overlay}.json']\""
    )


@edge
def start(workflow: Context, device: str | torch.device, seed: int, by_itself: bool = False) -> None:
    """Joins other processes if there are some, checks the options, sets the seed, and builds the parts without data.

    It writes nothing.

    Args:
        workflow: runs the config.
        device: where the workflow will run.
        seed: seed of all random numbers.
        by_itself: whether several processes would each do the whole work instead of sharing it, and each round of a
            federation would begin with this site's own checkpoint.

    Raises:
        ValueError: for a misspelt option, a wrong value, a missing device, or a missing overlay.
    """
    end_on_signals()
    tell_uncaught()
    distributed.join(device)
    if distributed.rank() > 0:  # what holds for all, the first rank says
        logging.getLogger("monai_fusenet").setLevel(logging.ERROR)
        for name in OF_ONE_IMAGE:
            logging.getLogger(name).setLevel(logging.WARNING)
    # Said by libraries below about themselves, over and over; nothing that a user could act upon.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    check_options(workflow.config, [] if workflow.run_id is None else [workflow.run_id])
    check_values(workflow.config)
    if by_itself:
        check_overlay(workflow)
    try:
        distributed.choose_gpu(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device} cannot be used here ({reason}); give --device cpu") from error
    if seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    set_determinism(seed)
    build_components(workflow.parser)


@edge
def workers_for(device: str | torch.device, spatial_dims: int) -> int:
    """How many processes share the images of a folder by default, see `FolderEvaluator`.

    As many as there are cores for each of the ranks on this machine, and as memory allows. None for volumes, which each
    take much memory and keep several threads busy, and none on a GPU.
    """
    if torch.device(device).type != "cpu" or spatial_dims == 3 or not workers.can_fork():
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(workers.cores() // ranks, available_memory() // MEMORY_OF_WORKER))


@edge
def resolve_dir(path: str | Path) -> str:
    """The absolute path of a folder for results, which exists and is writable, or can be made."""
    resolved = Path(str(path)).expanduser().resolve()
    nearest = next(folder for folder in (resolved, *resolved.parents) if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"output_dir must be a folder, but {nearest} is a file")
    try:
        # Not os.access, which says yes to root, whatever the file system says; with content, for which it may be full.
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(2**12))
    except OSError as error:
        raise ValueError(f"output_dir cannot be written: {nearest} ({error.strerror})") from error
    return str(resolved)


@edge
def images(
    dataset_dir: str | Path | None, output_dir: str | Path, sequences: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """All images of a folder, or, without one, the sample images that scikit-image installs.

    Args:
        dataset_dir: folder in one of the layouts of `find_images`, or `None`.
        output_dir: folder of the results, which is not searched.
        sequences: endings of the files that are channels of one image, see `find_images`.

    Raises:
        ValueError: when the folder is missing, holds no image or is the folder of the results.
    """
    if dataset_dir is None:
        logger.info("no dataset_dir: running on the sample images that scikit-image installs")
        return distributed.from_first(sample_images)
    folder = Path(str(dataset_dir)).expanduser()
    if folder.resolve() == Path(output_dir).resolve():
        raise ValueError(f"output_dir and dataset_dir are the same folder, {folder}; choose another --output_dir")
    return distributed.from_first(lambda: find_images(folder, output_dir, sequences))


@edge
def images_or_phantoms(
    dataset_dir: str | Path | None,
    output_dir: str | Path,
    sequences: Sequence[str] | None = None,
    accepted_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """All images of a folder, or, without one, synthetic phantoms with masks, which `evaluate` will draw.

    Files in `accepted_dir` do not count as images if there are images beside it.
    """
    if dataset_dir is None:
        return phantom_images(Path(output_dir) / "phantoms")
    found = images(dataset_dir, output_dir, sequences)
    if accepted_dir is None:
        return found
    folder = Path(str(accepted_dir)).expanduser().resolve()
    others = [item for item in found if folder not in Path(ensure_tuple(item["image"])[0]).resolve().parents]
    if not others:
        return found
    names = unique_names([item["file"] for item in others])
    return [{**item, "name": name} for item, name in zip(others, names, strict=True)]


@edge
def accepted_masks(
    accepted_dir: str | Path | None,
    items: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
    output_dir: str | Path,
) -> AcceptedMasks | None:
    """The masks that a person accepted, or `None` if there is no folder of them, see `find_accepted`.

    Raises:
        ValueError: as `find_accepted` and `AcceptedMasks.load`, and when the folder lies inside that of the results,
            which are overwritten.
    """
    if accepted_dir is None or dataset_dir is None:
        return None
    if not str(accepted_dir).strip():
        raise ValueError("accepted_dir must be a folder of masks, got an empty name")
    folder, results = Path(str(accepted_dir)).expanduser(), Path(output_dir).resolve()
    if results in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"accepted_dir {folder} lies in output_dir, whose masks are overwritten: copy it elsewhere")
    return distributed.from_first(lambda: _fitting(folder, items, Path(str(dataset_dir)).expanduser()))


def _fitting(folder: Path, items: Sequence[Mapping[str, Any]], dataset_dir: Path) -> AcceptedMasks:
    """Accepted masks, each brought to its image once: one that does not fit is told before the training."""
    accepted = find_accepted(items, folder, dataset_dir)
    for item in items:
        if item["name"] in accepted.paths:
            try:
                image = load_image(item["image"])
            except Exception:  # told with all other images that cannot be read
                continue
            accepted.load(item["name"], image)
    return accepted
