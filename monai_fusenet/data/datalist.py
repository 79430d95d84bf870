"""Folders of images, in the layouts of public data sets and programs, as lists of samples."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from monai_fusenet.data.conventions import Folder, is_ignored, is_mask, normal
from monai_fusenet.data.dataset_json import read_dataset_json
from monai_fusenet.data.dicom_headers import is_dicom_file
from monai_fusenet.data.dicom_series import dicom_images, objects_below
from monai_fusenet.data.formats import IMAGE_SUFFIXES, suffix_of
from monai_fusenet.data.pairing import Found, Place, assign, sort_out
from monai_fusenet.data.sequences import cases
from monai_fusenet.utils.errors import printable

logger = logging.getLogger(__name__)

SUMMARY_HEAD = ("file", "status", "clusters", "steps", "seconds")  # of the `summary.csv` of all versions


def holds_results(folder: str | os.PathLike) -> bool:
    """Whether this package's workflows have written to a folder; its pictures are then not used as images."""
    if all(os.path.isfile(os.path.join(folder, name)) for name in ("checkpoint.pt", "panel.png")):
        return True
    try:
        with open(os.path.join(folder, "summary.csv"), encoding="utf-8") as file:
            return file.readline().startswith(",".join(SUMMARY_HEAD))
    except (OSError, UnicodeDecodeError):
        return False


def find_images(
    dataset_dir: str | os.PathLike,
    exclude_dir: str | os.PathLike | None = None,
    sequences: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Finds the images below a folder, and their masks if there are any.

    If the folder has a `dataset.json` of the Medical Segmentation Decathlon or of nnU-Net, this is read; otherwise all
    folders below are searched. Images may lie anywhere. Their masks lie beside them, or in folders such as `masks`,
    with the same stem or one with an ending such as `_mask`. docs/datasets.md lists the names and the layouts of data
    sets. A folder with one DICOM series of several files is one image. If the dataset folder has a folder `images` with
    images, only these count. Hidden files, unknown suffixes, thumbnails, regions of interest (PH2), superpixels (ISIC)
    and folders of this package's own results are ignored. A file with the name of a label map is never an image; if
    there are such files, one line of the log says so.

    Args:
        dataset_dir: the folder.
        exclude_dir: a folder that is not searched, such as the output folder.
        sequences: endings of the stems of files that are channels of one image, in the order of the channels, such as
            `["_t1", "_t2", "_flair"]` or `["_0000", "_0001"]`; a file (or series) `<case>/t1` with the ending `t1`
            belongs to the image `<case>`. Files without such an ending are ignored. If an ending is missing, `image`
            names a file that does not exist. Not for a `dataset.json`, whose files hold their channels.

    Returns:
        One dictionary per image, sorted by `file`:

        - `image`: absolute path of the file, or of the folder of a DICOM series; with `sequences`, or where
          `dataset.json` names several channels, a list of these;
        - `label`, where there is a mask: its absolute path, or a list of several (left and right lung, one per
          lesion) whose union is the mask; of several annotators, only the first;
        - `file`: the path relative to `dataset_dir`, with forward slashes, without its ending where that names a
          sequence or channel; control characters and undecodable bytes as escapes;
        - `name`: unique, for naming results: the stem; where stems collide the relative path joined by underscores.

    Raises:
        ValueError: if the folder does not exist, is a file, is `exclude_dir` itself or holds no image; if `sequences`
            are not distinct words, or one ends in another; if `dataset.json` is broken, is of another kind or lists
            files that do not exist.
    """
    root = _existing_folder(dataset_dir)
    if sequences is None and (root / "dataset.json").is_file():
        items = read_dataset_json(root / "dataset.json")
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
    """Names the masks that belong to no image, so that an evaluation does not silently ignore them.

    If a `dataset.json` lists the images, the masks that it does not name are included.

    Masks that belong to an image but are not its truth, such as a second annotator's, are not included.

    Args:
        dataset_dir: the folder.
        items: the result of `find_images` for it.
        exclude_dir: as for `find_images`.

    Returns:
        Sorted paths relative to `dataset_dir`, with forward slashes.
    """
    root = _existing_folder(dataset_dir)
    used = {path for item in items for path in ensure_tuple(item.get("label", ()))}
    found = list(search(root, exclude_dir))
    masks = assign(sort_out(found).masks, _places(root, items, found))
    of_no_item = [*masks.unmatched, *chain.from_iterable(masks.owned.values())]  # owned: where a list names others
    return sorted(printable(mask.file) for mask in of_no_item if str(mask.path) not in used)


def unique_names(files: Sequence[str]) -> list[str]:
    """Names for results, unique even if a file system ignores upper and lower case and forms of Unicode.

    Args:
        files: different relative paths, with forward slashes.

    Returns:
        One name per file: the stem; for files with the same stem the path without suffix, joined by underscores; if
        this is still not unique, the path with its suffix, and if needed a number.

    Example:
        >>> unique_names(["a/scan.png", "b/scan.png", "b/scan.jpg", "brain.nii.gz"])
        ['a_scan', 'b_scan_png', 'b_scan_jpg', 'brain']
    """
    forms = []
    for file in files:
        *folders, name = Path(file).parts
        stem = stem_of(name)
        whole = "_".join([*folders, stem])
        forms.append((stem, whole, whole + suffix_of(name).replace(".", "_")))
    lengths = [0] * len(files)  # of the form in use: 0 the stem, 2 the longest
    while True:
        names = [form[length] for form, length in zip(forms, lengths, strict=True)]
        counts = Counter(map(_same, names))
        clashing = [i for i, name in enumerate(names) if counts[_same(name)] > 1 and lengths[i] < 2]
        if not clashing:
            break
        for i in clashing:
            lengths[i] += 1
    taken = set(map(_same, names))
    seen: set[str] = set()
    for i, name in enumerate(names):
        if _same(name) in seen:
            number = 2
            while _same(f"{name}_{number}") in taken:
                number += 1
            names[i] = f"{name}_{number}"
            taken.add(_same(names[i]))
        seen.add(_same(names[i]))
    return names


def _same(name: str) -> str:
    """What names have in common that are one file on some systems."""
    return normal(name).casefold()


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


def stem_of(name: str) -> str:
    """The name of a file without the suffix of its format; any other name as it is."""
    suffix = suffix_of(name)
    stem = name[: -len(suffix)] if suffix in IMAGE_SUFFIXES else name
    return stem[:-4] if suffix in (".tif", ".tiff") and stem.lower().endswith(".ome") else stem


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
    images, masks, others = sort_out(search(root, exclude_dir))
    for inner in sorted(root.glob("*/dataset.json")) if sequences is None else ():
        logger.warning("not read: %s; give its folder as the dataset to use its cases", printable(str(inner)))
    if not images:
        found_instead = f"{len(masks)} files named like masks and no other" if masks else "no file"
        objects = objects_below(root)
        raise ValueError(
            f"no image in {root}: found {found_instead} that ends in {' '.join(IMAGE_SUFFIXES)}"
            f"{f', but {objects}' if objects else ''}"
            f"{'; add the images, or rename those that are no masks' if masks else ''}"
        )
    items_by_place: dict[Place, list[dict[str, Any]]] = defaultdict(list)
    if sequences is None:
        for image in images:
            items_by_place[image.place].append({"image": str(image.path), "file": image.file})
    else:
        for place, item in cases(root, images, sequences):
            items_by_place[place].append(item)
    owned, unmatched, left_out = assign(masks, items_by_place)
    for place, its_masks in owned.items():
        paths = [str(mask.path) for mask in its_masks]
        for item in items_by_place[place]:
            item["label"] = paths if len(paths) > 1 else paths[0]
    _tell(sum(map(len, owned.values())), [one.file for one in (*unmatched, *left_out, *others)])
    return [item for items in items_by_place.values() for item in items]


def _tell(used: int, unused: Sequence[str], most: int = 3) -> None:
    """Says once what was found and is no image."""
    if not used and not unused:
        return
    names = ", ".join(map(printable, sorted(unused)[:most]))
    more = f" and {len(unused) - most} more" if len(unused) > most else ""
    parts = [f"{used} masks of the images"] if used else []
    if unused:
        parts.append(f"{len(unused)} other files that are no images, by their names: {names}{more}")
    logger.info("found beside the images: %s", "; ".join(parts))


def _places(root: Path, items: Sequence[Mapping[str, Any]], found: Sequence[Found]) -> set[Place]:
    """Where the items of `find_images` are among the files found."""
    by_path = {str(one.path): one for one in found}
    places = set()
    for item in items:
        one = next((by_path[path] for path in ensure_tuple(item["image"]) if path in by_path), None)
        if one is not None and isinstance(item["image"], str):
            places.add(one.place)
        elif one is not None:  # sequences, in a folder of the case or not
            case, group = root / item["file"], one.folder.group
            places.add(Place(group if case.parent == one.path.parent else group[:-1], normal(case.name)))
    return places


def search(
    root: Path, exclude_dir: str | os.PathLike | None = None, root_kind: Folder | None = None
) -> Iterator[Found]:
    """Finds the images and masks below a folder.

    Args:
        root: absolute.
        exclude_dir: a folder that is not searched.
        root_kind: what `root` itself is; by default, it says nothing.

    Raises:
        ValueError: if a folder cannot be listed, or `root` is `exclude_dir`.
    """
    excluded = os.path.realpath(exclude_dir) if exclude_dir is not None else None
    visited: set[str] = set()

    def stop(error: OSError) -> None:
        raise ValueError(f"cannot list the folder {error.filename}: {error.strerror}")

    kinds = {str(root): (root_kind or Folder(), Folder())}  # of a folder and of the one above it
    for folder, folders, files in os.walk(root, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        if real == excluded and folder == str(root):
            raise ValueError(f"the output folder is the dataset folder {root}: give another one, it may lie inside")
        # visited: a link to a folder above it
        if real == excluded or real in visited or (folder != str(root) and holds_results(folder)):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        kind, above = kinds.pop(folder)
        kind = kind.holding(folders)
        kinds |= {os.path.join(folder, name): (kind.below(name, folders), kind) for name in folders}
        stems = {name: stem_of(name) for name in files if not is_ignored(name)}
        names = [name for name, stem in stems.items() if stem != name or is_dicom_file(os.path.join(folder, name))]
        inside = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        series, depth = kind._replace(group=above.group), len(Path(folder).parts)
        for path in _images_of(Path(folder), sorted(names), stems, kind):
            if len(path.parts) > depth:
                yield Found(path, inside + path.name, stems[path.name], kind)
            else:
                yield Found(path, inside[:-1] or root.name, stem_of(path.name), series)


def _images_of(folder: Path, names: Sequence[str], stems: Mapping[str, str], kind: Folder) -> list[Path]:
    """The images and masks that the files of a folder are: DICOM slices, but for masks beside them, are one."""
    if not any(is_dicom_file(os.path.join(folder, name)) for name in names):
        return [folder / name for name in names]
    masks = set() if kind.is_mask else {name for name in names if is_mask(stems[name])}
    images = dicom_images(folder, [name for name in names if name not in masks], kind.is_mask)
    return [*images, *(folder / name for name in names if name in masks)]
