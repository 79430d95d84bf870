"""Folders of images, in the layouts that public data sets come in, as lists of samples."""

import fnmatch
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.utils import ensure_tuple

from monai_fusenet.data.dicom_series import dicom_series
from monai_fusenet.data.formats import DICOM_SUFFIXES, IMAGE_SUFFIXES, suffix_of
from monai_fusenet.utils.errors import printable

# Conventions, in lower case. A mask belongs to the image whose path is the same once these folder names, and then the
# ending of the mask's stem, are taken away. PH2: imd*; ISIC challenges: isic*, isbi*; Montgomery: manualmask,
# leftmask, rightmask; Montgomery and Shenzhen: cxr_png; Medical Segmentation Decathlon: *tr, *ts.
IMAGE_FOLDERS = (
    *("image", "images", "imagestr", "imagests", "cxr_png"),
    *("imd*_dermoscopic_image", "isic*_data", "isbi*_data", "isic*_input"),
)
MASK_FOLDERS = (
    *("mask", "masks", "label", "labels", "labelstr", "labelsts", "manualmask", "leftmask", "rightmask"),
    *("imd*_lesion", "isic*_groundtruth", "isbi*_groundtruth"),
)
IGNORED = (".*", "imd*_roi", "isic_*_superpixels.png")
# A number: one file per lesion, as in BUSI; seg: BraTS; _dicom: the folder of a mask that this package wrote.
MASK_ENDING = re.compile(r"[_-](mask|segmentation|seg)(_\d+|_dicom)?$", re.IGNORECASE)
MASK_ENDING_IN_MASK_FOLDER = re.compile(r"[_-](mask|segmentation|seg|lesion)(_\d+|_dicom)?$", re.IGNORECASE)


SUMMARY_HEAD = ("file", "status", "clusters", "steps", "seconds")  # of the `summary.csv` of all versions


def holds_results(folder: str | os.PathLike) -> bool:
    """Whether a folder is one that this package's workflows have written to: its pictures are no images to work on."""
    if all(os.path.isfile(os.path.join(folder, name)) for name in ("checkpoint.pt", "panel.png")):
        return True
    try:
        with open(os.path.join(folder, "summary.csv"), encoding="utf-8") as file:
            return file.readline().startswith(",".join(SUMMARY_HEAD))
    except (OSError, UnicodeDecodeError):
        return False


class _Found(NamedTuple):
    path: Path
    file: str  # relative to the dataset folder
    in_mask_folder: bool
    group: tuple[str, ...]  # the folders that are no convention

    @property
    def stem(self) -> str:
        return _stem(self.path)

    @property
    def is_mask(self) -> bool:
        return self.in_mask_folder or MASK_ENDING.search(self.stem) is not None

    def image_stems(self) -> list[str]:
        """The stems that the image of this mask may have, the likeliest first."""
        if self.in_mask_folder:
            return [self.stem, MASK_ENDING_IN_MASK_FOLDER.sub("", self.stem)]
        return [MASK_ENDING.sub("", self.stem)]


def find_images(
    dataset_dir: str | os.PathLike,
    exclude_dir: str | os.PathLike | None = None,
    sequences: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Finds the images below a folder, and their masks where there are any.

    Read are a Decathlon `dataset.json` directly in the folder, else every folder below it, in these layouts: images
    directly in the folder or anywhere below it; `images/` and `masks/` with equal stems; masks beside the images as
    `<stem>_mask` or `<stem>_segmentation`; PH2, ISIC, Montgomery and Shenzhen as published; a folder that holds one
    DICOM series of several files is one image. Where the dataset folder has a folder `images` with images, only they
    count. Hidden files, unknown suffixes, regions of interest (PH2), superpixels (ISIC) and folders of this
    package's own results are passed over; a file that is named like a mask is never an image.

    Args:
        dataset_dir: the folder.
        exclude_dir: a folder that is not searched, such as the output folder.
        sequences: endings of the stems of files that are channels of one image, in the order of the channels, such as
            `["_t1", "_t2", "_flair"]` or `["_0000", "_0001"]`; a file (or series) `<case>/t1` of the ending `t1` is of
            the image `<case>`. Files of no such ending are passed over, where an ending is missing, `image` names a
            file that is not there. Not for a `dataset.json`, whose files hold their channels.

    Returns:
        One dictionary per image, sorted by `file`:

        - `image`: absolute path of the file, or of the folder of a DICOM series; with `sequences`, a list of these;
        - `label`, where there is a mask: its absolute path, or a list of several (left and right lung, one per
          lesion) whose union is the mask;
        - `file`: the path relative to `dataset_dir`, with forward slashes, without its ending where that names a
          sequence; control characters and undecodable bytes as escapes;
        - `name`: unique, for naming results: the stem; where stems collide the relative path joined by underscores.

    Raises:
        ValueError: if the folder does not exist, is a file, is `exclude_dir` itself or holds no image, if `sequences`
            are not different words of which no one ends in another, if
            `dataset.json` is broken or lists files that do not exist.
    """
    root = _existing_folder(dataset_dir)
    if sequences is None and (root / "dataset.json").is_file():
        items = _from_decathlon(root)
    else:
        items = _from_folders(root, exclude_dir, sequences)
    items.sort(key=lambda item: item["file"])
    for item, shown in zip(items, _shown([item["file"] for item in items]), strict=True):
        item["file"] = shown
    for item, name in zip(items, unique_names([item["file"] for item in items]), strict=True):
        item["name"] = name
    return items


def unmatched_masks(
    dataset_dir: str | os.PathLike, items: Sequence[Mapping[str, Any]], exclude_dir: str | os.PathLike | None = None
) -> list[str]:
    """Names the masks that belong to no image, so that an evaluation does not pass over them in silence.

    Args:
        dataset_dir: the folder.
        items: what `find_images` returned for it.
        exclude_dir: as for `find_images`.

    Returns:
        Sorted paths relative to `dataset_dir`, with forward slashes.
    """
    used = {path for item in items for path in ensure_tuple(item.get("label", ()))}
    found = _search(_existing_folder(dataset_dir), exclude_dir)
    return sorted(printable(one.file) for one in found if one.is_mask and str(one.path) not in used)


def unique_names(files: Sequence[str]) -> list[str]:
    """Names for results, unique even where file names do not tell upper from lower case.

    Args:
        files: different relative paths, with forward slashes.

    Returns:
        One name per file: the stem; for files whose stems collide the path without suffix, joined by underscores;
        where that collides with another name, the path with its suffix; if need be with a number.

    Example:
        >>> unique_names(["a/scan.png", "b/scan.png", "b/scan.jpg", "brain.nii.gz"])
        ['a_scan', 'b_scan_png', 'b_scan_jpg', 'brain']
    """
    forms = []
    for file in files:
        path = Path(file)
        whole = "_".join(path.with_name(_stem(path)).parts)
        forms.append((_stem(path), whole, whole + suffix_of(path).replace(".", "_")))
    lengths = [0] * len(files)  # of the form in use: 0 the stem, 2 the longest
    while True:
        names = [form[length] for form, length in zip(forms, lengths, strict=True)]
        counts = Counter(name.casefold() for name in names)
        clashing = [i for i, name in enumerate(names) if counts[name.casefold()] > 1 and lengths[i] < 2]
        if not clashing:
            break
        for i in clashing:
            lengths[i] += 1
    taken = {name.casefold() for name in names}
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name.casefold() in seen:
            number = 2
            while f"{name}_{number}".casefold() in taken:
                number += 1
            names[i] = f"{name}_{number}"
            taken.add(names[i].casefold())
        seen.add(names[i].casefold())
    return names


def _shown(files: Sequence[str]) -> list[str]:
    """The files as tables and logs show them: control characters and undecodable bytes as escapes, still unique."""
    shown: list[str] = []
    taken = {file for file in files if file.isprintable()}
    for file in files:
        name = printable(file)
        while not file.isprintable() and name in taken:
            name = f"_{name}"
        taken.add(name)
        shown.append(name)
    return shown


def _stem(path: Path) -> str:
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix in IMAGE_SUFFIXES else path.name


def _existing_folder(dataset_dir: str | os.PathLike) -> Path:
    root = Path(os.path.abspath(dataset_dir))
    if not root.exists():
        raise ValueError(f"the dataset folder does not exist: {root}")
    if not root.is_dir():
        raise ValueError(f"the dataset must be a folder, got the file {root}: give the folder that holds it")
    return root


def _from_folders(
    root: Path, exclude_dir: str | os.PathLike | None, sequences: Sequence[str] | None
) -> list[dict[str, Any]]:
    found = list(_search(root, exclude_dir))
    masks = [one for one in found if one.is_mask]
    images = [one for one in found if not one.is_mask]
    images = [one for one in images if one.file.lower().startswith("images/")] or images
    if not images:
        found_instead = f"{len(masks)} files named like masks and no other" if masks else "no file"
        raise ValueError(f"no image in {root}: found {found_instead} that ends in {' '.join(IMAGE_SUFFIXES)}")
    items_by_place: dict[tuple[tuple[str, ...], str], list[dict[str, Any]]] = defaultdict(list)
    if sequences is None:
        for image in images:
            items_by_place[image.group, image.stem].append({"image": str(image.path), "file": image.file})
    else:
        for case, item in _cases(root, images, sequences):
            items_by_place[case].append(item)
    for mask in masks:
        place = next((p for p in ((mask.group, stem) for stem in mask.image_stems()) if p in items_by_place), None)
        for item in items_by_place[place] if place else ():
            item["label"] = [*ensure_tuple(item["label"]), str(mask.path)] if "label" in item else str(mask.path)
    return [item for items in items_by_place.values() for item in items]


def _cases(
    root: Path, images: Sequence[_Found], sequences: Sequence[str]
) -> Iterator[tuple[tuple[tuple[str, ...], str], dict[str, Any]]]:
    """Joins files of one stem but for its ending; each with the group and the stem that its mask has."""
    endings = [ending.lower() for ending in _checked_sequences(sequences)]
    cases: dict[tuple[Path, str], dict[str, _Found]] = defaultdict(dict)
    for image in images:
        ending = next((ending for ending in endings if image.stem.lower().endswith(ending)), None)
        if ending is None:
            continue
        case = cases[image.path.parent, image.stem[: len(image.stem) - len(ending)]]
        if ending in case:
            raise ValueError(f"{case[ending].path} and {image.path} are the same sequence of one image: keep one")
        case[ending] = image
    if not cases:
        raise ValueError(f"no image in {root} has a stem that ends in {' or '.join(sequences)}, see sequences")
    for (folder, stem), case in cases.items():
        known = next(iter(case.values()))
        suffix = known.path.name[len(known.stem) :]
        paths = [
            str(case[ending].path if ending in case else folder / f"{stem}{named}{suffix}")
            for ending, named in zip(endings, sequences, strict=True)
        ]
        group = known.group
        if not stem and group:  # the files of a case have a folder of their own
            stem, group, folder = group[-1], group[:-1], folder.parent
        yield (group, stem), {"image": paths, "file": (folder / stem).relative_to(root).as_posix()}


def _checked_sequences(sequences: Any) -> Sequence[str]:
    listed = list(sequences) if isinstance(sequences, Sequence) and not isinstance(sequences, str) else []
    if not listed or not all(isinstance(ending, str) and ending for ending in listed):
        raise ValueError(f"sequences must be a list of endings of file names, as ['_t1','_t2'], got {sequences}")
    for index, ending in enumerate(listed):
        for other in listed[:index] + listed[index + 1 :]:
            if other.lower().endswith(ending.lower()):
                raise ValueError(f"of sequences, {other} ends in {ending}: files of both could not be told apart")
    return listed


def _search(root: Path, exclude_dir: str | os.PathLike | None) -> Iterator[_Found]:
    excluded = os.path.realpath(exclude_dir) if exclude_dir is not None else None
    visited: set[str] = set()

    def stop(error: OSError) -> None:
        raise ValueError(f"cannot list the folder {error.filename}: {error.strerror}")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        if real == excluded and folder == str(root):
            raise ValueError(f"the output folder is the dataset folder {root}: give another one, it may lie inside")
        # visited: a link to a folder above it
        if real == excluded or real in visited or (folder != str(root) and holds_results(folder)):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _matches(name, IGNORED))
        names = [name for name in files if suffix_of(name) in IMAGE_SUFFIXES and not _matches(name, IGNORED)]
        inside = Path(folder).relative_to(root).parts
        for path in _series_as_one(Path(folder), sorted(names)):
            file = path.relative_to(root).as_posix() if path != root else root.name
            in_mask_folder = any(_matches(part, MASK_FOLDERS) for part in inside)
            above = inside if path.parent == Path(folder) else inside[:-1]
            group = tuple(part for part in above if not _matches(part, IMAGE_FOLDERS + MASK_FOLDERS))
            yield _Found(path, file, in_mask_folder, group)


def _series_as_one(folder: Path, names: list[str]) -> list[Path]:
    """The files of a folder, where those of one DICOM series give way to the folder itself."""
    dicom = {name for name in names if suffix_of(name) in DICOM_SUFFIXES}
    try:
        series = dicom_series(folder) if len(dicom) > 1 else []
    except ValueError:  # a damaged file: the folder is an image that fails, with this reason, and the others go on
        series = [[]]
    if all(len(files) == 1 for files in series):
        return [folder / name for name in names]
    return [*(folder / name for name in names if name not in dicom), folder]  # also of several, which fails by name


def _from_decathlon(root: Path) -> list[dict[str, Any]]:
    """Reads `dataset.json`; MONAI's `load_decathlon_datalist` fails on an empty list of tests and checks nothing."""
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    lists = [content.get(key, []) for key in ("training", "validation", "test")] if isinstance(content, dict) else []
    if not all(isinstance(entries, list) for entries in lists) or not any(lists):
        raise ValueError(f"{path} must hold a list 'training' of images with labels, or a list 'test' of images")
    items: dict[str, dict[str, Any]] = {}
    for entry in (entry for entries in lists for entry in entries):
        named = entry if isinstance(entry, dict) else {"image": entry}
        paths = {key: named[key] for key in ("image", "label") if key in named}
        if "image" not in paths or not all(isinstance(value, str) for value in paths.values()):
            raise ValueError(f"{path} must list paths or {{'image': path, 'label': path}}, got {entry!r}")
        item = {key: os.path.normpath(root / value) for key, value in paths.items()}
        item["file"] = Path(os.path.relpath(item["image"], root)).as_posix()
        items.setdefault(item["image"], item)
    missing = [
        value for item in items.values() for key, value in item.items() if key != "file" and not Path(value).exists()
    ]
    if missing:
        raise ValueError(f"{path} lists {len(missing)} files that do not exist, the first is {missing[0]}")
    return list(items.values())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
