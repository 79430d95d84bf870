"""The kinds of values that options may have.

Checks import what they need when they are called, because the command reads the table of options and must start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from monai_fusenet.utils.checks import check_number, check_switch, check_whole

__all__ = [
    "ACCEPTED",
    "AXES",
    "CLASSES",
    "DICOM",
    "FIELD",
    "FILE",
    "FOLDER",
    "NAN_VALUE",
    "NEIGHBOURS",
    "PANELS",
    "PARTITIONS",
    "RESOLUTIONS",
    "SECOND_VIEW",
    "SEEDS",
    "STEPS_OR_NULL",
    "STUDENT_SIZE",
    "SWITCH",
    "TEXT",
    "WHOLE_OR_NULL",
    "WORKING_SIZE",
    "Config",
    "Kind",
    "number",
    "whole",
]

Config = Mapping[str, Any]


class Kind(NamedTuple):
    """The values that an option may have.

    Attributes:
        text: description for users.
        check: called with the option's name, its value and the whole config; raises `ValueError`.
    """

    text: str
    check: Callable[[str, Any, Config], None] = lambda name, value, config: None


def whole(least: int) -> Kind:
    """A whole number of at least `least`."""
    return Kind(f"whole number, at least {least}", lambda name, value, _: check_whole(name, value, least))


def number(text: str) -> Kind:
    """A finite number of at least 0; the part that uses it checks tighter bounds itself."""
    return Kind(text, lambda name, value, _: check_number(name, value, 0))


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_seeds(name: str, seeds: Any, config: Config) -> None:
    if seeds is not None and not (
        isinstance(seeds, list | tuple)
        and seeds
        and all(_is_whole(seed, 0) and seed < 2**32 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    ):
        raise ValueError(f"{name} must be different whole numbers from 0 to 2**32 - 1, as [0,1,2], got {seeds}")


def _check_second_view(name: str, second: Any, config: Config) -> None:
    check_whole(name, second, 0)
    channels = config.get("in_channels")
    if second and isinstance(channels, int) and channels != 2 * second:
        raise ValueError(f"{name} must be half of in_channels, 0 or {channels / 2:g}, got {second}")
    views = config.get("augmentation")
    if second and isinstance(views, Mapping) and name not in views:
        raise ValueError(f"{name} must be 0: this method has no second view of another sequence, got {second}")


def _check_neighbours(name: str, neighbours: Any, config: Config) -> None:
    if neighbours is not None:
        check_whole(name, neighbours, 0)


def _check_whole_or_null(name: str, value: Any, config: Config) -> None:
    if value is not None:
        check_whole(name, value, 1)


def _check_classes(name: str, classes: Any, config: Config) -> None:
    known = isinstance(classes, list) and all(_is_whole(value, 1) and value < 2**16 for value in classes)
    if not known or not classes or classes != sorted(set(classes)):
        raise ValueError(f"{name} must be a list of ascending whole numbers from 1 to 65535, got {classes}")


def _check_accepted_dir(name: str, folder: Any, config: Config) -> None:
    if folder is not None and config.get("dataset_dir") is None:
        raise ValueError(f"{name} needs dataset_dir, the folder of the images whose masks were accepted")


def _check_student_size(name: str, size: Any, config: Config) -> None:
    dims = config.get("spatial_dims")
    if size is None or not isinstance(dims, int):
        return
    sides = size if isinstance(size, list | tuple) else []
    if len(sides) != dims or not all(_is_whole(side, 1) for side in sides):
        raise ValueError(f"{name} must be a list of {dims} whole numbers of at least 1, got {size}")


def _check_axes(name: str, axes: Any, config: Config) -> None:
    dims = config.get("spatial_dims")
    if axes is None or not isinstance(dims, int):
        return
    known = isinstance(axes, list | tuple) and all(_is_whole(axis, 0) and axis < dims for axis in axes)
    if not known or len(set(axes)) < len(axes):
        raise ValueError(f"{name} must be a list of distinct axes from {list(range(dims))}, got {axes}")


def _check_working_size(name: str, size: Any, config: Config) -> None:
    dims, grid = config.get("spatial_dims"), config.get("patch_grid")
    if size is None or not isinstance(dims, int) or not isinstance(grid, int):
        return
    sides = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    if len(sides) != dims or not all(_is_whole(side, grid) for side in sides):
        raise ValueError(f"{name} must be {dims} whole numbers of at least {grid}, got {size}")
    inferer = config.get("inferer")
    _check_resolutions("resolutions", inferer.get("resolutions") if isinstance(inferer, Mapping) else None, config)


def _check_resolutions(name: str, resolutions: Any, config: Config) -> None:
    grid = config.get("patch_grid")
    whole_numbers = isinstance(resolutions, list) and all(isinstance(side, int) for side in resolutions)
    if isinstance(grid, int) and whole_numbers and not all(_is_whole(side, grid) for side in resolutions or ()):
        raise ValueError(f"{name} must be whole numbers of at least {grid}, got {resolutions}")


def _check_nan_value(name: str, value: Any, config: Config) -> None:
    from monai_fusenet.data.preparation import LARGEST

    if value is not None:
        check_number(name, value, -LARGEST, LARGEST)


def _check_field(name: str, field: Any, config: Config) -> None:
    from monai_fusenet.transforms import FIELD_SHAPES

    if field not in (None, *FIELD_SHAPES):
        raise ValueError(f'{name} must be null, "device" or "body", got {field}')


def _check_partitions(name: str, partitions: Any, config: Config) -> None:
    from monai_fusenet.transforms.foreground import check_partitions

    check_partitions(partitions)


def _check_panels(name: str, panels: Any, config: Config) -> None:
    from monai_fusenet.handlers.results import check_panels

    check_panels(panels)


def _check_dicom(name: str, output: Any, config: Config) -> None:
    from monai_fusenet.results.dicom import check_dicom_output

    check_dicom_output(output)


SWITCH = Kind("True or False", lambda name, value, _: check_switch(name, value))
FOLDER, FILE, TEXT = Kind("folder"), Kind("file"), Kind("text")
SEEDS = Kind("list of whole numbers", _check_seeds)
DICOM = Kind('null, "seg" or "series"', _check_dicom)
PANELS = Kind('"all", "some" or "none"', _check_panels)
ACCEPTED = Kind("folder", _check_accepted_dir)
NAN_VALUE = Kind("null, or number", _check_nan_value)
FIELD = Kind('null, "device" or "body"', _check_field)
SECOND_VIEW = Kind("whole number, 0 or half of in_channels", _check_second_view)
WORKING_SIZE = Kind("list of whole numbers, at least patch_grid", _check_working_size)
NEIGHBOURS = Kind("null, or whole number", _check_neighbours)
STEPS_OR_NULL = Kind(
    "null, or whole number, at least 0",
    lambda name, value, _: None if value is None else check_whole(name, value, 0),
)
WHOLE_OR_NULL = Kind("null, or whole number, at least 1", _check_whole_or_null)
RESOLUTIONS = Kind("null, or ascending list", _check_resolutions)
PARTITIONS = Kind("list of whole numbers, at least 2", _check_partitions)
STUDENT_SIZE = Kind("list of whole numbers, at least 1", _check_student_size)
AXES = Kind("list of axes", _check_axes)
CLASSES = Kind("list of whole numbers, 1 to 65535", _check_classes)
