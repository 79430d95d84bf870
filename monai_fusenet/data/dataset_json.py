"""`dataset.json`: the lists of the Medical Segmentation Decathlon and of nnU-Net, versions 1 and 2."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_fusenet.data.conventions import Folder, is_ignored, normal
from monai_fusenet.data.formats import IMAGE_SUFFIXES, PICTURE_SUFFIXES, suffix_of
from monai_fusenet.data.pairing import Found, Place, assign
from monai_fusenet.utils.errors import printable

__all__ = ["read_dataset_json"]

Item = dict[str, Any]


def read_dataset_json(path: Path) -> list[Item]:
    """Reads the images that a `dataset.json` lists; without lists, those that nnU-Net would find by name.

    MONAI's `load_decathlon_datalist` fails on an empty list of tests and checks nothing.

    Args:
        path: of the file; paths in it are relative to its folder.

    Returns:
        One dictionary per image: `image` (a list, in the order of `channel_names`, where channels are files), `label`
        if there is one (a list, if nnU-Net's folder holds several files for a case), and `file`.

    Raises:
        ValueError: if the file is broken, is of another kind, or lists files that do not exist.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    content = content if isinstance(content, dict) else {}
    channels = content.get("channel_names", content.get("modality"))
    count = len(channels) if isinstance(channels, dict | list) and channels else 1
    lists = [content.get(key, []) for key in ("training", "validation", "test")]
    if all(isinstance(entries, list) for entries in lists) and any(lists):
        return _listed(path, [entry for entries in lists for entry in entries], count)
    if isinstance(channels, dict | list) and "channel_names" in content:
        if isinstance(content.get("dataset"), dict):
            return _of_cases(path, content["dataset"])
        return _named(path, content.get("file_ending", ".nii.gz"), count)
    raise ValueError(
        f"{path} must hold a list 'training' of images with labels, or a list 'test' of images, or nnU-Net's "
        "'channel_names'; move a file of another meaning elsewhere, and the folder is searched"
    )


def _listed(path: Path, entries: list[Any], channels: int) -> list[Item]:
    """Images of the Decathlon and of nnU-Net's version 1, whose lists leave out `_0000`."""
    items: dict[str, Item] = {}
    for entry in entries:
        named = entry if isinstance(entry, dict) else {"image": entry}
        paths = {key: named[key] for key in ("image", "label") if key in named}
        if not paths.get("label", True):  # "" or null
            del paths["label"]
        if not paths.get("image") or not all(isinstance(value, str) for value in paths.values()):
            raise ValueError(f"{path} must list paths or {{'image': path, 'label': path}}, got {entry!r}")
        item: Item = {key: os.path.normpath(path.parent / value) for key, value in paths.items()}
        items.setdefault(item["image"], {**item, "file": _file(path, item["image"])})
    disk = _Disk()
    for item in items.values():
        if disk.find(item["image"]) is None:
            stem, suffix = _split(item["image"])
            files = [f"{stem}_{channel:04d}{suffix}" for channel in range(channels)]
            if disk.find(files[0]) is not None:
                item["image"] = _one_or_all(files)
    return _on_disk(path, list(items.values()), disk)


def _of_cases(path: Path, entries: Mapping[str, Any]) -> list[Item]:
    """Images of nnU-Net's version 2 where `dataset` lists them by case."""
    items = []
    for case, entry in entries.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        is_list = isinstance(images, list) and all(isinstance(image, str) for image in images)
        if not images or not is_list or not isinstance(label, str | None):
            raise ValueError(f"{path} must list {{'images': [paths], 'label': path}} for {case}, got {entry!r}")
        files = [os.path.normpath(path.parent / image) for image in images]
        folder = Path(_file(path, files[0])).parent
        item: Item = {"image": _one_or_all(files), "file": (folder / case).as_posix()}
        if label:
            item["label"] = os.path.normpath(path.parent / label)
        items.append(item)
    return _on_disk(path, items, _Disk())


def _named(path: Path, ending: Any, channels: int) -> list[Item]:
    """Images of nnU-Net's version 2: `imagesTr/<case>_<channel><ending>` and `labelsTr/<case><ending>`.

    Masks of another ending, or whose name differs in case or in the form of its characters, are given to their case as
    in a data set without a list: nnU-Net itself would stop at them.
    """
    if ending not in IMAGE_SUFFIXES:
        raise ValueError(f"{path} must have a file_ending of {' '.join(IMAGE_SUFFIXES)}, got {ending}")
    pattern = re.compile(rf"([^.].*)_(\d{{4}}){re.escape(ending)}")
    items, in_one_file = [], ending in PICTURE_SUFFIXES  # of an RGB picture, the channels lie in one file
    for part in ("Tr", "Ts"):
        folder = path.parent / f"images{part}"
        found: dict[str, set[int]] = defaultdict(set)
        for name in os.listdir(folder) if folder.is_dir() else ():
            if match := pattern.fullmatch(name):
                found[normal(match[1])].add(int(match[2]))
        in_one_file = in_one_file and not set().union(*found.values()) - {0}
        labels = _labels(path.parent / f"labels{part}", ending, found)
        for case in sorted(found):
            item: Item = {"image": str(folder / case), "file": f"images{part}/{case}"}
            items.append({**item, "label": _one_or_all(labels[case])} if case in labels else item)
    if not items:
        raise ValueError(f"{path} is nnU-Net's, but imagesTr and imagesTs beside it hold no file <case>_0000{ending}")
    disk = _Disk()
    for item in items:
        files = [f"{item['image']}_{channel:04d}{ending}" for channel in range(1 if in_one_file else channels)]
        item["image"] = _one_or_all([disk.find(file) or file for file in files])
    return items


def _labels(folder: Path, ending: str, cases: Iterable[str]) -> dict[str, list[str]]:
    """The masks of each case: the file that nnU-Net reads, else those whose names mean the case."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    by_name = {normal(name): name for name in names if not is_ignored(name)}
    exact = {case: by_name.pop(f"{case}{ending}", None) for case in cases}
    labels = {case: [str(folder / name)] for case, name in exact.items() if name is not None}
    masks = [
        Found(folder / name, name, stem, Folder(is_mask=True))
        for name in by_name.values()
        for stem, suffix in [_split(name)]
        if suffix.lower() in IMAGE_SUFFIXES
    ]
    for place, its_masks in assign(masks, [Place((), case) for case in cases]).owned.items():
        labels.setdefault(place.stem, [str(mask.path) for mask in its_masks])
    return labels


class _Disk:
    """Finds files whose names are listed in another form of Unicode than that of the disk."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def find(self, file: str) -> str | None:
        """The path on disk; `None` where there is none."""
        if os.path.exists(file):
            return file
        above, name = os.path.split(file)
        folder = self.find(above) if name and not file.isascii() else None
        if folder is None or not os.path.isdir(folder):
            return None
        if folder not in self._names:
            self._names[folder] = {normal(other): other for other in os.listdir(folder)}
        other = self._names[folder].get(normal(name))
        return None if other is None else os.path.join(folder, other)


def _on_disk(path: Path, items: list[Item], disk: _Disk) -> list[Item]:
    missing = []
    for item in items:
        for key in ("image", "label"):
            files = _as_list(item[key]) if key in item else []
            found = [disk.find(file) for file in files]
            missing += [file for file, there in zip(files, found, strict=True) if there is None]
            if files:
                item[key] = _one_or_all([there or file for file, there in zip(files, found, strict=True)])
    if missing:
        raise ValueError(f"{path} lists {len(missing)} files that do not exist, the first is {printable(missing[0])}")
    return items


def _one_or_all(files: list[str]) -> str | list[str]:
    return files[0] if len(files) == 1 else files


def _as_list(files: str | list[str]) -> list[str]:
    return [files] if isinstance(files, str) else files


def _split(file: str) -> tuple[str, str]:
    length = len(suffix_of(file))
    return file[: len(file) - length], file[len(file) - length :]


def _file(path: Path, image: str) -> str:
    return Path(os.path.relpath(image, path.parent)).as_posix()
