"""What the bundle's configs call: options, images, weights and exit statuses.

The library raises `ValueError`; here it becomes one line on the terminal and exit status 1.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
import os
import pydoc
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.transforms import Transform
from monai.utils import BundlePropertyConfig, ensure_tuple, set_determinism
from torch import nn
from tqdm import tqdm

from monai_fusenet import __version__
from monai_fusenet.bundle.student_bundle import write_bundle
from monai_fusenet.data import draw_phantoms, find_images, phantom_images, sample_images, unmatched_masks
from monai_fusenet.distillation import Distiller, Teacher, folder_pass
from monai_fusenet.engines import FolderEvaluator
from monai_fusenet.evaluation import Example, draw_example, format_totals, score_folder, typical_rows, write_report
from monai_fusenet.handlers.checkpoint import load_tensors
from monai_fusenet.handlers.results import ResultWriter
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.results.dicom import check_dicom_output, is_dicom
from monai_fusenet.utils import distributed
from monai_fusenet.utils.checks import check_number, check_switch, check_whole
from monai_fusenet.utils.errors import failure_reason, is_out_of_memory, is_worker_death, printable
from monai_fusenet.utils.files import CannotWriteError

__all__ = [
    "check_options",
    "distil",
    "evaluate",
    "find_bundle_root",
    "images",
    "images_or_phantoms",
    "infer",
    "initial_network",
    "load_network",
    "resolve_dir",
    "settings",
    "start",
    "train",
]

logger = logging.getLogger(__name__)
AGAIN = "run the same command again to go on"
Result = TypeVar("Result")

WHOLE_NUMBERS = {
    "seed": 0,
    "num_workers": 0,
    "batch_size": 1,
    "max_epochs": 1,
    "val_interval": 1,
    "min_clusters": 0,
    "steps": 0,
    "in_channels": 1,
    "second_view_channels": 0,
    "spatial_dims": 2,
    "patch_grid": 1,
    "rounds": 1,
    "round_steps": 1,
}
SWITCHES = {"overwrite", "amp", "merge_twins"}
NUMBERS = {"learning_rate", "min_confidence", "agreement"}
COMPONENTS = (
    *("network_def", "loss_function", "foreground", "preprocessing", "postprocessing", "inferer"),
    *("augmentation", "train#preprocessing", "validate#preprocessing", "validate#postprocessing"),
    *("classical", "student_def", "student#preprocessing", "student#postprocessing", "student#augmentation"),
    *("student#loss_function", "results_dir", "network", "optimizer", "teacher", "distiller"),
)
COMPONENT_KEYS = {"_target_", "_requires_", "_disabled_", "_desc_", "_mode_"}
ENTRY_KEYS = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "training",
    "inference",
    "evaluation",
    "distillation",
    "_meta_",
}
BOOKKEEPING = {
    *("bundle_root", "dataset_dir", "output_dir", "predictions_dir", "device", "overwrite", "num_workers", "seeds"),
    *("results_dir", "items", "writer", "dataset", "dataloader", "handlers", "evaluator", "max_epochs", "val_interval"),
    *("teacher", "distiller", "dicom_output"),
}
STUDENT_OPTIONS = (  # what the masks that teach do not depend on
    *("student_def", "student_size", "student", "teacher_seeds", "rounds", "round_steps", "batch_size"),
    *("learning_rate", "min_confidence", "agreement", "objects", "convex", "seed", "student_norm", "flip_axes"),
)
FIT_OPTIONS = ("steps", "resolutions")  # what a training does not know
STUDENT_PARTS = ("preprocessing", "inferer", "mask", "postprocessing")  # of the block `student`, for its own bundle
OF_ONE_IMAGE = ("monai_fusenet.handlers.results", "monai_fusenet.evaluation.folder")  # what these warn of
PROPERTY_KEYS = {
    re.split("::|#", str(value[BundlePropertyConfig.ID]))[0]
    for value in (*TrainProperties.values(), *InferProperties.values())
}


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM, which end the program with the status that shells give to it, and without a traceback.

    Attributes:
        done: what was reached, as users read it.
    """

    done = ""


def entry(function: Callable[..., Result]) -> Callable[..., Result]:
    """Turns faults that users can mend into one line and exit status 1, or that of the signal that ended the program.

    From a config, they print dozens of lines.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        try:
            return function(*args, **kwargs)
        except Interrupted as stop:
            close_progress_bars()
            if distributed.rank() == 0:
                print(f"\ninterrupted; {stop.done}{AGAIN}", file=sys.stderr)  # after ^C, or half a bar
            raise SystemExit(stop.code) from None
        except Exception as error:
            close_progress_bars()
            reason = describe(error)
            if reason is None:
                raise
            line = f"error: {printable(reason)}"
            raise SystemExit(line if distributed.first_to_say(line) else 1) from error

    return wrapper


def describe(error: Exception) -> str | None:
    """What a user reads of an error that a user can mend, in one line; `None` for all others."""
    if isinstance(error, CannotWriteError):
        return f"{error}; what is finished is kept, {AGAIN}"
    if isinstance(error, ValueError | OSError):
        return str(error)
    if isinstance(error, RuntimeError) and distributed.is_lost(error):
        return "another process of this run has ended, and this one cannot go on alone"
    if is_out_of_memory(error):
        return f"{failure_reason(error)}; a smaller --working_size or --batch_size needs less"
    if is_worker_death(error):
        reason = "a process that loads images was killed, perhaps as memory did not suffice"
        return f"{reason}; what is finished is kept, {AGAIN}, with fewer --num_workers"
    return None


def close_progress_bars() -> None:
    """Ends the lines of the bars that an error has left, so that what is printed next has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        with contextlib.suppress(AttributeError):  # an interrupt may come while a bar is being made
            bar.close()


def end_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM end this process by `Interrupted`, if it is `python -m monai.bundle` and nothing else.

    Worker processes, which come into being with the same handlers, leave Ctrl-C to this one, which ends them.
    """
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is None or program.name != "monai.bundle.__main__":
        return
    main_process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == main_process:
            raise Interrupted(128 + number)
        if number == signal.SIGTERM:  # from this process, to a worker that has just begun
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _caller(kind: type[Result]) -> Result | None:
    """The object of a type whose method is running this config.

    An expression in a config sees neither the parser nor the names of the files that it came from, but both are on
    the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


@entry
def find_bundle_root() -> str:
    """The folder above the config file that is being run.

    Raises:
        SystemExit: when no workflow runs a config file.
    """
    workflow = _caller(ConfigWorkflow)
    if workflow is None:
        raise ValueError("the bundle's folder is unknown here: give bundle_root")
    return str(Path(workflow.config_root_path).resolve().parent)


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, Sequence):
        for value in config:
            yield from _strings(value)


def _components(config: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from _components(value, f"{path}#{key}" if path else str(key))
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for index, value in enumerate(config):
            yield from _components(value, f"{path}#{index}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


def check_options(config: Mapping[str, Any], run_ids: Sequence[str] = ()) -> None:
    """Finds misspelt options, which MONAI's parser takes without a word.

    A top-level key that nothing in the config refers to, and a component's argument that it does not take. Options of
    a fit and of a student are passed over everywhere: a preset may bring them.

    Args:
        config: the merged config, overrides included.
        run_ids: further entry points of the config.

    Raises:
        ValueError: names the first such option and the nearest known one.
    """
    # Of no use, as `dataset_dir`, which is a property, where a program gives `items`.
    entries = ENTRY_KEYS | PROPERTY_KEYS | {"sequences"} | set(run_ids)
    used = {name for text in _strings(config) for name in re.findall(r"[@%](\w+)", text)}
    for key in config:
        if key not in used and key not in entries and key not in (*FIT_OPTIONS, *STUDENT_OPTIONS):
            # Plain values are options; blocks and what is computed from others are not.
            known = [
                name
                for name, value in config.items()
                if name not in {key, *ENTRY_KEYS} and not isinstance(value, Mapping) and "$fusenet" not in str(value)
            ]
            raise ValueError(f"unknown option {key}{_nearest(key, known)}")
    for path, component in _components(config):
        target = pydoc.locate(str(component["_target_"]))
        if not callable(target):
            continue
        parameters = inspect.signature(target).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for key in component:
            if key not in parameters and key not in COMPONENT_KEYS:
                nearest = _nearest(key, [name for name in parameters if name != "self"])
                raise ValueError(f"unknown option {path}#{key}{nearest}")


def check_values(config: Mapping[str, Any]) -> None:
    """Checks top-level values that would do harm later, or be misunderstood without a word.

    Args:
        config: the merged config; expressions and references are left alone.

    Raises:
        ValueError: says what was expected of which option, and what came.
    """

    def is_plain(value: Any) -> bool:
        return not (isinstance(value, str) and value.startswith(("$", "@")))

    def is_whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    plain = {name: value for name, value in config.items() if is_plain(value)}
    for name in plain.keys() & WHOLE_NUMBERS.keys():
        check_whole(name, plain[name], WHOLE_NUMBERS[name])
    for name in plain.keys() & SWITCHES:
        check_switch(name, plain[name])
    for name in plain.keys() & NUMBERS:
        check_number(name, plain[name], 0)
    check_dicom_output(plain.get("dicom_output"))
    seeds = plain.get("seeds")
    if seeds is not None and not (
        isinstance(seeds, list | tuple)
        and seeds
        and all(is_whole(seed, 0) and seed < 2**32 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    ):
        raise ValueError(f"seeds must be different whole numbers from 0 to 2**32 - 1, as [0,1,2], got {seeds}")
    second, channels = plain.get("second_view_channels"), plain.get("in_channels")
    if second and isinstance(channels, int) and channels != 2 * second:
        raise ValueError(f"second_view_channels must be half of in_channels, 0 or {channels / 2:g}, got {second}")
    student_size, axes = config.get("student_size"), config.get("flip_axes")
    size, dims, grid = (config.get(name) for name in ("working_size", "spatial_dims", "patch_grid"))
    if student_size is not None and is_plain(student_size) and isinstance(dims, int):
        sides = student_size if isinstance(student_size, list | tuple) else []
        if len(sides) != dims or not all(is_whole(side, 1) for side in sides):
            raise ValueError(f"student_size must be a list of {dims} whole numbers of at least 1, got {student_size}")
    if axes is not None and is_plain(axes) and isinstance(dims, int):
        known = isinstance(axes, list | tuple) and all(is_whole(axis, 0) and axis < dims for axis in axes)
        if not known or len(set(axes)) < len(axes):
            raise ValueError(f"flip_axes must be a list of different ones of {list(range(dims))}, got {axes}")
    if size is not None and is_plain(size) and isinstance(dims, int) and isinstance(grid, int):
        sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
        if len(sides) != dims or not all(is_whole(side, grid) for side in sides):
            raise ValueError(f"working_size must be {dims} whole numbers of at least {grid}, got {size}")
        inferer = config.get("inferer")
        own = inferer.get("resolutions") if isinstance(inferer, Mapping) else None
        for resolutions in (config.get("resolutions"), own):
            whole = isinstance(resolutions, list) and all(isinstance(side, int) for side in resolutions)
            if whole and not all(is_whole(side, grid) for side in resolutions or ()):
                raise ValueError(f"resolutions must be whole numbers of at least {grid}, got {resolutions}")


def build_components(parser: ConfigParser) -> None:
    """Builds what needs no data, so that a wrong value is found before anything is read or written.

    Raises:
        ValueError: names the component that cannot be built, and why.
    """
    for name in COMPONENTS:
        if name not in parser:
            continue
        try:
            parser.get_parsed_content(name)
        except Exception as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            raise ValueError(f"{name} cannot be built: {str(reason).splitlines()[0]}") from error


@entry
def start(device: str | torch.device, seed: int, in_one_process: bool = False) -> None:
    """Joins other processes where there are some, checks the options, seeds, and builds what needs no data.

    It writes nothing.

    Args:
        device: where the workflow will run.
        seed: seed of everything random.
        in_one_process: whether several processes would do the same thing instead of sharing it.

    Raises:
        SystemExit: for a misspelt option, a wrong value, a device that is not there, or too many processes.
    """
    end_on_signals()
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
    parser, workflow = _caller(ConfigParser), _caller(ConfigWorkflow)
    if parser is not None:
        if workflow is None:
            check_options(parser.get())
        else:
            check_options(parser.get(), [workflow.run_id])
        check_values(parser.get())
    if in_one_process and distributed.size() > 1:
        configs = "configs" if workflow is None else workflow.config_root_path
        raise ValueError(
            f"train.json alone trains in one process, but {distributed.size()} were started; add the overlay: "
            f"--config_file \"['{configs}/train.json','{configs}/multi_gpu_train.json']\""
        )
    try:
        distributed.choose_gpu(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device} cannot be used here ({reason}); give --device cpu") from error
    if seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    set_determinism(seed)
    if parser is not None:
        build_components(parser)


@entry
def resolve_dir(path: str | Path) -> str:
    """An absolute path for a folder of results, which is there and writable or can be made."""
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


@entry
def images(
    dataset_dir: str | Path | None, output_dir: str | Path, sequences: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """All images of a folder, or, without one, the sample images that scikit-image installs.

    Args:
        dataset_dir: folder in one of the layouts of `find_images`, or `None`.
        output_dir: folder of the results, which is not searched.
        sequences: endings of the files that are channels of one image, see `find_images`.

    Raises:
        SystemExit: when the folder is missing, holds no image or is the folder of the results.
    """
    if dataset_dir is None:
        logger.info("no dataset_dir: running on the sample images that scikit-image installs")
        return distributed.from_first(sample_images)
    folder = Path(str(dataset_dir)).expanduser()
    if folder.resolve() == Path(output_dir).resolve():
        raise ValueError(f"output_dir and dataset_dir are the same folder, {folder}; choose another --output_dir")
    return distributed.from_first(lambda: find_images(folder, output_dir, sequences))


@entry
def images_or_phantoms(
    dataset_dir: str | Path | None, output_dir: str | Path, sequences: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """All images of a folder, or, without one, synthetic phantoms with masks, which `evaluate` will draw."""
    if dataset_dir is None:
        return phantom_images(Path(output_dir) / "phantoms")
    return images(dataset_dir, output_dir, sequences)


@entry
def settings(*without: str) -> dict[str, Any]:
    """All of the config that is being run that results may depend on: everything but folders and bookkeeping.

    What `multi_gpu_train.json` changes is left out, too: a checkpoint knows by how many ranks it was trained.

    Args:
        without: further keys that results do not depend on.

    Returns:
        plain values; a checkpoint is told by its content.
    """
    parser = _caller(ConfigParser)
    if parser is None:
        raise ValueError("the settings are unknown here: no config is being run")
    config = {key: value for key, value in parser.get().items() if key not in {*BOOKKEEPING, *ENTRY_KEYS, *without}}
    if isinstance(config.get("inferer"), Mapping):
        config["inferer"] = {key: value for key, value in config["inferer"].items() if key != "progress"}
    if "train" in config:
        sampler = config["train"]["sampler"] | {"num_replicas": 1, "rank": 0}
        trainer = config["train"]["trainer"] | {"network": "@network"}
        config["train"] = config["train"] | {"sampler": sampler, "trainer": trainer}
    checkpoint = Path(str(config.get("checkpoint"))).expanduser()
    if checkpoint.is_file():
        config["checkpoint"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return json.loads(json.dumps({**config, "monai_fusenet": __version__}, default=str))


@entry
def load_network(
    network: nn.Module, checkpoint: str | Path | None, inferer: Any, bundle_root: str | Path, device: str | torch.device
) -> nn.Module:
    """The network with the weights that the inferer needs.

    Args:
        network: where the weights go.
        checkpoint: `model.pt` or `checkpoint.pt` of a training, or `None`.
        inferer: a `PerImageInferer` that starts afresh needs no weights; all others do.
        bundle_root: the bundle, whose `models/model.pt` holds untrained weights.
        device: where the network goes.

    Raises:
        SystemExit: when weights are needed and missing or untrained, given and not needed, or do not fit.
    """
    network = network.to(device)
    fresh = isinstance(inferer, PerImageInferer) and inferer.steps > 0 and inferer.fresh
    if checkpoint is None and fresh:
        return network
    if checkpoint is None:
        raise ValueError("feed-forward and adaptation need trained weights: give --checkpoint, a training's model.pt")
    if fresh:
        raise ValueError(
            "--checkpoint has no effect here: each image is fitted from fresh weights; "
            "add configs/feedforward.yaml or configs/adapt.yaml to use it"
        )
    weights = _read_weights(checkpoint, device)
    shipped = Path(bundle_root) / "models" / "model.pt"
    if shipped.is_file():
        untrained = load_tensors(shipped, device)
        if untrained.keys() == weights.keys() and all(torch.equal(untrained[name], weights[name]) for name in weights):
            raise ValueError(f"{checkpoint} holds the untrained weights that the bundle ships: train first")
    return _with_weights(network, weights, checkpoint)


@entry
def initial_network(network: nn.Module, checkpoint: str | Path | None, device: str | torch.device) -> nn.Module:
    """The network that a training starts from: with its initial weights, or with those of a checkpoint.

    Raises:
        SystemExit: when the checkpoint is unreadable or does not fit.
    """
    network = network.to(device)
    return network if checkpoint is None else _with_weights(network, _read_weights(checkpoint, device), checkpoint)


def _with_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], checkpoint: str | Path) -> nn.Module:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not fit this network: {str(error).splitlines()[-1].strip()}") from error
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{checkpoint} is of no use: its weights {name} hold NaN or infinite values")
    return network


def _read_weights(checkpoint: str | Path, device: str | torch.device) -> Mapping[str, torch.Tensor]:
    path = Path(str(checkpoint)).expanduser()
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is no file")
    try:
        state = load_tensors(path, device)
    except ValueError as error:
        raise ValueError(f"checkpoint {error}") from error
    if isinstance(state, Mapping) and "network" in state:
        state = state["network"]
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint {path} holds no weights, but a {type(state).__name__}")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided):
            raise ValueError(f"checkpoint {path} holds no weights: {name!r} must name a dense tensor")
    return state


def check_conflicts(writer: ResultWriter) -> None:
    """Raises `ValueError` where the folder holds results of other images or settings."""
    if writer.conflicts:
        others = f" and {len(writer.conflicts) - 1} others" if len(writer.conflicts) > 1 else ""
        raise ValueError(
            f"{writer.output_dir} holds results for {writer.conflicts[0]}{others} that come from another image or from "
            "other options; choose another --output_dir, or redo them with --overwrite True"
        )


def make_masks(evaluator: FolderEvaluator, writer: ResultWriter) -> None:
    """Does what is pending, writes the summary and says what was done; all ranks together, each its share.

    Raises:
        ValueError: when the folder holds results of other images or settings; nothing is written then.
    """
    check_conflicts(writer)
    others = sum(not is_dicom(ensure_tuple(item["image"])[0]) for item in writer.items)
    if writer.dicom_output is not None and others:
        logger.info("dicom_output has no effect on %d images that are not DICOM", others)
    if distributed.size() > 1:
        writer.merge()
    if writer.pending:
        try:
            evaluator.run()
        except Interrupted as stop:
            counts = writer.counts()
            if distributed.size() == 1:
                stop.done = f"{counts['ok'] + counts['kept']} of {len(writer.items)} images done; "
            raise
    writer.merge()
    counts = writer.counts()
    logger.info("%d images done, %d failed; see %s", counts["ok"], counts["failed"], writer.output_dir / "summary.csv")
    if counts["kept"]:
        logger.info("%d kept as an earlier run with the same options left them", counts["kept"])


@entry
def infer(evaluator: FolderEvaluator, writer: ResultWriter) -> None:
    """Makes masks of all images that have none yet.

    Raises:
        SystemExit: 1 when no image could be done, 2 when some could not.
    """
    make_masks(evaluator, writer)
    distributed.leave()
    exit_with(writer.counts()["failed"], len(writer.items))


def exit_with(failed: int, total: int) -> None:
    """Raises `SystemExit` 1 where all of `total` images failed, 2 where some did."""
    if failed:
        sys.exit(1 if failed == total else 2)


def _with_seed(seed: int, output_dir: Path) -> ConfigParser:
    """The config that is being run, with another seed and folder of results."""
    parser = _caller(ConfigParser)
    if parser is None:
        raise ValueError("several seeds need a config that is being run")
    config = parser.get()
    return ConfigParser({**config, "seed": seed, "writer": {**config["writer"], "output_dir": str(output_dir)}})


def _make_masks_of_seeds(seeds: Sequence[int], output_dir: Path) -> dict[int, ResultWriter]:
    """Makes masks with each seed, in `seed_<n>` in the folder; returns their writers."""
    configs = {seed: _with_seed(seed, output_dir / f"seed_{seed}") for seed in seeds}
    writers = {seed: config.get_parsed_content("writer") for seed, config in configs.items()}
    for writer in writers.values():
        check_conflicts(writer)  # of all, before the first is fitted
    for seed, config in configs.items():
        set_determinism(seed)
        make_masks(config.get_parsed_content("evaluator"), writers[seed])
    return writers


def _folders_of_predictions(predictions_dir: str | Path) -> dict[int | None, Path]:
    """The `seed_<n>` folders in a folder of predictions by their seed, or, where there are none, the folder itself."""
    folder = Path(str(predictions_dir)).expanduser()
    if not folder.is_dir():
        raise ValueError(f"predictions_dir must be a folder of masks <name>_mask.*, but {folder} is none")
    found = {path: re.fullmatch(r"seed_(\d+)", path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    seeds = {int(match[1]): path for path, match in found.items() if match}
    if seeds and any(folder.glob("*_mask.*")):
        logger.warning("%s: the masks beside the folders seed_<n> are not scored", folder)
    return {seed: seeds[seed] for seed in sorted(seeds)} or {None: folder}


@entry
def evaluate(
    evaluator: FolderEvaluator,
    writer: ResultWriter,
    dataset_dir: str | Path | None,
    predictions_dir: str | Path | None,
    choose_mask: Callable[[np.ndarray, np.ndarray], np.ndarray],
    seed: int = 0,
    seeds: Sequence[int] | None = None,
) -> None:
    """Makes masks unless `predictions_dir` holds them, scores them, writes and prints the report.

    Args:
        evaluator: makes the masks.
        writer: its results; its folder is that of the report.
        dataset_dir: folder of images and masks, or `None` for phantoms, which are drawn here.
        predictions_dir: folder of masks to score instead, `<name>_mask.*`, or of folders `seed_<n>` of them, or `None`.
        choose_mask: label-free rule for the baselines that only cluster.
        seed: that of `evaluator`.
        seeds: make masks with each of these instead, in `seed_<n>` in the writer's folder, and score all.

    Raises:
        SystemExit: 1 when nothing could be scored, 2 when some images could not, or masks belong to no image.
    """
    items = writer.items
    if dataset_dir is None:
        logger.info("no dataset_dir: evaluating on SYNTHETIC phantoms, which say nothing about medical images")
        images_dir = writer.output_dir / "phantoms"
        distributed.from_first(lambda: draw_phantoms(images_dir))
    else:
        images_dir = Path(str(dataset_dir)).expanduser()
    strays = distributed.from_first(lambda: unmatched_masks(images_dir, items, writer.output_dir))
    if predictions_dir is not None:  # it may lie in the folder of the images
        predictions = Path(str(predictions_dir)).expanduser().resolve()
        strays = [stray for stray in strays if predictions not in (images_dir / stray).resolve().parents]
    for stray in strays:
        logger.warning("%s belongs to no image", stray)
    if not any("label" in item for item in items):
        raise ValueError(
            f"no image in {images_dir} has a mask: evaluation needs masks/ beside images/, with equal names"
        )
    writers: dict[int, ResultWriter] = {}
    if predictions_dir is not None:
        if seeds:
            raise ValueError("seeds has no effect with predictions_dir: all folders seed_<n> in it are scored")
        method, folders = "predictions", _folders_of_predictions(predictions_dir)
    else:
        if seeds:
            writers = _make_masks_of_seeds(seeds, writer.output_dir)
        else:
            make_masks(evaluator, writer)
            writers = {seed: writer}
        method, folders = "FuseNet", {key: value.output_dir for key, value in writers.items()}
    rows, failures = score_folder(items, folders, choose_mask, method)

    def tell() -> None:
        for failure in failures:
            for key, each in writers.items():
                if failure.seed in (None, key) and each.rows[failure.file]["status"] != "failed":
                    each.add_message(failure.file, f"not scored: {failure.reason}")
        if not rows:
            return
        kept = sum(each.counts()["kept"] for each in writers.values())
        made = f"made without any label{f', {kept} of them by an earlier run with the same options' if kept else ''}"
        synthetic = " (SYNTHETIC phantoms)" if dataset_dir is None else ""
        scored = len({row["file"] for row in rows})
        heading = [
            f"Masks of {method}, scored",
            f"images: {images_dir}{synthetic}, {scored} of {len(items)} scored",
            f"masks: {predictions_dir or made}",
            f"made on {datetime.now():%Y-%m-%d %H:%M} by monai_fusenet {__version__}",
            *([] if predictions_dir else [f"options: {_options(list(writers))}"]),
        ]
        not_scored = [
            (file, reason if which is None or len(folders) == 1 else f"seed {which}: {reason}")
            for file, which, reason in failures
        ]
        report = write_report(rows, writer.output_dir, heading, not_scored, _examples(rows, method, items, folders))
        print(format_totals(rows))
        logger.info("scores of each image and level: %s; report: %s", writer.output_dir / "scores.csv", report)

    distributed.from_first(tell)
    distributed.leave()
    if failures or strays:
        sys.exit(2 if rows else 1)


def _examples(
    rows: Sequence[dict[str, Any]],
    method: str,
    items: Sequence[Mapping[str, Any]],
    folders: Mapping[int | None, Path],
) -> list[Example]:
    """The best, the median and the worst image of a method."""
    items_by_file = {item["file"]: item for item in items}
    examples = []
    for place, row in typical_rows(rows, method).items():
        seed = f", seed {row['seed']}" if len(folders) > 1 else ""
        caption = f"{place}: {row['file']}{seed}, Dice {row['dice']:.3f}"
        examples.append(Example(caption, draw_example(items_by_file[row["file"]], folders[row["seed"]])))
    return examples


def _options(seeds: Sequence[int]) -> str:
    """The options that shape masks, for a report."""
    config = {**settings(), "seed": list(seeds) if len(seeds) > 1 else seeds[0]}
    named = {
        name: value for name, value in config.items() if not isinstance(value, Mapping | str) and value is not None
    }
    for block in ("inferer", "foreground"):
        named |= {f"{block}#{key}": value for key, value in config[block].items() if not key.startswith("_")}
    return ", ".join(f"{name} {value}" for name, value in named.items() if not str(value).startswith("@"))


@entry
def train(trainer: Any, dataset: Any) -> None:
    """Runs the training; ends with exit status 2 when images had to be left out."""
    dataset.prepare()
    trainer.run()
    distributed.leave()
    exit_with(len(dataset.failures), len(dataset.failures) + len(dataset))


def student_config(
    config: Mapping[str, Any], parent: Mapping[str, Any], values: Mapping[str, Any], weights: str
) -> dict[str, Any]:
    """The `inference.json` of a distilled network: the shipped one with its own network and transforms.

    Args:
        config: of the distillation, as it is written.
        parent: the shipped `inference.json`: names, order and what runs are taken from it.
        values: options whose values are known by now.
        weights: fingerprint of the weights, by which results of other weights are told apart.
    """
    parts = {name: config["student"][name] for name in STUDENT_PARTS}
    own = json.loads(re.sub("@student(#|::)", "@", json.dumps(parts)))  # MONAI's parser turns one into the other
    own |= {
        "network_def": config["student_def"],
        "network": "$fusenet.initial_network(@network_def, @checkpoint, @device)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "scaling": config["scaling"],
        "writer": {**parent["writer"], "settings": f"$fusenet.settings() | {{'weights': '{weights}'}}"},
    }
    left_out = (
        *("amp", "working_size", "second_view_channels", "augmentation", "merge_twins", "resizing", "loss_function"),
        *("foreground", *FIT_OPTIONS),
    )
    merged = {**{key: value for key, value in parent.items() if key not in left_out}, **own}
    first = ("imports", "bundle_root", "dataset_dir", "output_dir", "checkpoint")
    head = {key: merged[key] for key in first} | dict(values)
    return head | {key: value for key, value in merged.items() if key not in head}


def student_metadata(parent: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The `metadata.json` of a distilled network."""
    shape = list(values["student_size"])
    image = {**parent["network_data_format"]["inputs"]["image"], "num_channels": values["in_channels"]}
    image |= {
        "spatial_shape": shape,
        "channel_def": {str(channel): "image" for channel in range(values["in_channels"])},
    }
    pred = {**parent["network_data_format"]["outputs"]["pred"], "num_channels": 1}
    pred |= {"type": "logits", "format": "segmentation", "spatial_shape": shape, "channel_def": {"0": "foreground"}}
    return {
        **parent,
        "changelog": {parent["version"]: "distilled from label-free masks"},
        "name": "Distilled segmentation",
        "task": "Segmentation of the kind of image that the folder held which it was distilled from",
        "description": "A feed-forward network trained on masks made and chosen without any label.",
        "data_source": "one folder of images, without their masks",
        "image_classes": f"{values['in_channels']} channels, intensities scaled to [0, 1] per image",
        "pred_classes": "logit of the foreground",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


@entry
def distil(
    distiller: Distiller,
    teacher: Teacher,
    preprocessing: Callable,
    postprocessing: Transform,
    items: Sequence[Mapping[str, Any]],
    dataset_dir: str | Path | None,
    bundle_root: str | Path,
) -> None:
    """Makes masks that teach, trains the network on them, and writes it as a bundle, with its masks of the folder.

    Args:
        distiller: trains the network.
        teacher: makes the masks.
        preprocessing: transform of an item for the network.
        postprocessing: transform of the network's output to a mask on the image's own grid.
        items: all images.
        dataset_dir: folder of the images, or `None` for phantoms, which are drawn here.
        bundle_root: the bundle that runs.

    Raises:
        SystemExit: 1 when no image could be done, 2 when some could not.
    """
    parser = _caller(ConfigParser)
    if parser is None:
        raise ValueError("the options are unknown here: no config is being run")
    if dataset_dir is None:
        logger.info("no dataset_dir: learning from SYNTHETIC phantoms, which say nothing about medical images")
        distributed.from_first(lambda: draw_phantoms(distiller.output_dir / "phantoms"))
    distributed.from_first(lambda: distiller.check_continuable(items))
    items = [{key: item[key] for key in ("image", "file", "name")} for item in items]  # and no label from here on
    for evaluator, writer in teacher.passes(items):
        make_masks(evaluator, writer)

    def train_student() -> dict[str, torch.Tensor]:
        distiller.run(items, teacher.folders)
        return {name: value.cpu() for name, value in distiller.network.state_dict().items()}

    distiller.network.load_state_dict(distributed.from_first(train_student))

    names = (
        "sequences",
        "spatial_dims",
        "in_channels",
        "patch_grid",
        "student_size",
        "student_norm",
        "objects",
        "convex",
    )
    values = {name: parser.get_parsed_content(name) for name in (*names, "flip_axes")}
    parent = Path(str(bundle_root)) / "configs"
    shipped, metadata = (json.loads((parent / f"{name}.json").read_text("utf-8")) for name in ("inference", "metadata"))
    weights = _fingerprint(distiller.network)
    config, model_dir = student_config(parser.get(), shipped, values, weights), distiller.output_dir / "model"
    model = (distiller.network, config, student_metadata(metadata, values), bundle_root)
    distributed.from_first(lambda: write_bundle(model_dir, *model))
    logger.info("the network, as a bundle: %s", model_dir)

    def own_masks(overwrite: bool) -> tuple[FolderEvaluator, ResultWriter]:
        folder, network = distiller.output_dir / "masks", distiller.network
        parts = (distiller.inferer, postprocessing, distiller.device, {"weights": weights}, overwrite)
        return folder_pass(items, folder, preprocessing, network, *parts)

    evaluator, writer = own_masks(distiller.overwrite)
    if writer.conflicts:  # left by an earlier network
        evaluator, writer = own_masks(overwrite=True)
    infer(evaluator, writer)


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
