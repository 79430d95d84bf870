"""Checks of a config against the table of options: misspelt names, wrong values, settings that results depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import pydoc
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.bundle import ConfigComponent, ReferenceResolver
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from monai_fusenet import __version__
from monai_fusenet.bundle.faults import edge
from monai_fusenet.options.kinds import Config
from monai_fusenet.options.table import BLOCKS, BOOKKEEPING, FIT_OPTIONS, OPTIONS, STUDENT_OPTIONS, WORKFLOWS

if TYPE_CHECKING:
    from monai_fusenet.bundle.context import Context

__all__ = ["ENTRIES", "PROPERTIES", "check_options", "check_values", "references", "settings"]

# What MONAI and we call, and what `monai.fl.client.MonaiAlgo` calls a run.
ENTRIES = {"imports", "initialize", "run", "finalize", "_meta_", "workflow", "run_name", *WORKFLOWS}
PROPERTIES = {  # what MONAI asks a bundle for
    ReferenceResolver.split_id(str(value[BundlePropertyConfig.ID]))[0]
    for value in (*TrainProperties.values(), *InferProperties.values())
}


def _walk(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each part of a config with its id."""
    yield path, config
    if isinstance(config, Mapping) or (isinstance(config, Sequence) and not isinstance(config, str)):
        for _, below, value in ReferenceResolver.iter_subconfigs(path, config):
            yield from _walk(value, below)


def references(config: Any) -> set[str]:
    """The top-level keys that a config, or a part of one, refers to."""
    texts = [value for _, value in _walk(config) if isinstance(value, str)]
    names = [name for text in texts for name in ReferenceResolver.match_refs_pattern(text)]
    return {ReferenceResolver.split_id(name)[0] for name in names}


def _nearest(name: str, known: Sequence[str], block: str = "") -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {block}{close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


def _left_without_effect(config: Config) -> set[str]:
    """Names that a shipped config has, whether or not an overlay that replaces a block still refers to them.

    A config that lacks some option of its workflow, such as that of a distilled network, is none that we ship: what it
    does not refer to is none of its options.
    """
    for workflow in WORKFLOWS:
        own = {option.name for option in OPTIONS if workflow in option.workflows and not option.overlays}
        if workflow in config and own <= config.keys():
            return own | {block.name for block in BLOCKS}
    return set()


def _is_plain(value: Any) -> bool:
    """Whether a value stands in the config as it is, and is no expression and no reference."""
    return not (isinstance(value, str) and value.startswith(("$", "@")))


def check_options(config: Config, run_ids: Sequence[str] = ()) -> None:
    """Finds misspelt options, which MONAI's parser accepts silently.

    A top-level key is misspelt if it is no option of this workflow and nothing in the config refers to it. An argument
    of a component is misspelt if the component does not take it. Options of a fit and of a student are accepted
    everywhere, because a preset may bring them. An overlay that replaces a block may leave options and blocks of a
    shipped config without effect.

    Args:
        config: the merged config, overrides included.
        run_ids: further entry points of the config.

    Raises:
        ValueError: names the first such option and the nearest known one, or the overlays that it belongs to.
    """
    # Of no use, as `dataset_dir`, which is a property, where a program gives `items`.
    entries = ENTRIES | PROPERTIES | {"sequences"} | set(run_ids)
    welcome = references(config) | entries | _left_without_effect(config) | {*FIT_OPTIONS, *STUDENT_OPTIONS}
    for key in config:
        brought_by = next((option.overlays for option in OPTIONS if option.name == key), ())
        if key not in welcome and brought_by:
            raise ValueError(
                f"{key} has no effect: another overlay replaces the part of {' or '.join(brought_by)} that uses it; "
                "leave one of the two overlays out"
            )
        if key not in welcome:
            # Plain values are options, and what is computed if the table names it; blocks are not.
            named = {option.name for option in OPTIONS}
            known = [
                name
                for name, value in config.items()
                if name not in {key, *ENTRIES}
                and not isinstance(value, Mapping)
                and (name in named or "$fusenet" not in str(value))
            ]
            raise ValueError(f"unknown option {key}{_nearest(key, known)}")
    for path, component in _walk(config):
        target = pydoc.locate(str(component["_target_"])) if ConfigComponent.is_instantiable(component) else None
        if not callable(target):
            continue
        try:
            parameters = inspect.signature(target).parameters
        except ValueError:  # of some functions written in C, nobody knows the arguments
            continue
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for key in component:
            if key not in parameters and key not in ConfigComponent.non_arg_keys:
                block = f"{path.replace(ReferenceResolver.sep, '#')}#"
                nearest = _nearest(key, [name for name in parameters if name != "self"], block)
                raise ValueError(f"unknown option {block}{key}{nearest}")


def check_values(config: Config) -> None:
    """Checks top-level values that would do harm later, or be silently misunderstood.

    Args:
        config: the merged config; expressions and references are left alone.

    Raises:
        ValueError: names the option, the expected value, and the given one.
    """
    for option in OPTIONS:
        if option.name in config and _is_plain(config[option.name]):
            if config[option.name] == "null":
                raise ValueError(
                    f"{option.name} is the word null; on a command line, null is written None: --{option.name} None"
                )
            option.kind.check(option.name, config[option.name], config)


@edge
def settings(workflow: Context, *without: str) -> dict[str, Any]:
    """All parts of the running config that results may depend on: everything except folders and bookkeeping.

    The changes of `multi_gpu_train.json` are left out, too: a checkpoint holds the number of ranks of its training.

    Args:
        workflow: runs the config.
        without: further keys that results do not depend on.

    Returns:
        plain values; a checkpoint is represented by its content.
    """
    left_out = {*BOOKKEEPING, *ENTRIES, *without}
    config = {key: value for key, value in workflow.config.items() if key not in left_out}
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
