"""Files that are channels of one image: its sequences, recognised by the endings of their stems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai_fusenet.data.conventions import normal
from monai_fusenet.data.pairing import Found, Place

__all__ = ["cases"]


def cases(root: Path, images: Sequence[Found], sequences: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Joins files whose stems differ only in the ending.

    Args:
        root: the dataset folder.
        images: files below it.
        sequences: the endings, in the order of the channels.

    Returns:
        The place that the mask of an image has, and the image with `image` (a list) and `file`.

    Raises:
        ValueError: if `sequences` are not distinct words, or one ends in another; if no file has one of these endings;
            or if two files are the same sequence of one image.
    """
    endings = [normal(ending).lower() for ending in _checked_sequences(sequences)]
    files_by_case: dict[tuple[Path, str], dict[str, Found]] = defaultdict(dict)
    for image in images:
        whole = normal(image.stem)
        ending = next((ending for ending in endings if whole.lower().endswith(ending)), None)
        if ending is None:
            continue
        case = files_by_case[image.path.parent, whole[: len(whole) - len(ending)]]
        if ending in case:
            raise ValueError(f"{case[ending].path} and {image.path} are the same sequence of one image: keep one")
        case[ending] = image
    if not files_by_case:
        raise ValueError(f"no image in {root} has a stem that ends in {' or '.join(sequences)}, see sequences")
    for (folder, stem), case in files_by_case.items():
        known = next(iter(case.values()))
        suffix = known.path.name[len(known.stem) :]
        paths = [
            str(case[ending].path if ending in case else folder / f"{stem}{named}{suffix}")
            for ending, named in zip(endings, sequences, strict=True)
        ]
        group = known.folder.group
        if not stem and group:  # the files of a case have a folder of their own
            stem, group, folder = group[-1], group[:-1], folder.parent
        yield Place(group, normal(stem)), {"image": paths, "file": (folder / stem).relative_to(root).as_posix()}


def _checked_sequences(sequences: Any) -> Sequence[str]:
    listed = list(sequences) if isinstance(sequences, Sequence) and not isinstance(sequences, str) else []
    if not listed or not all(isinstance(ending, str) and ending for ending in listed):
        raise ValueError(f"sequences must be a list of endings of file names, as ['_t1','_t2'], got {sequences}")
    for index, ending in enumerate(listed):
        for other in listed[:index] + listed[index + 1 :]:
            if other.lower().endswith(ending.lower()):
                raise ValueError(f"of sequences, {other} ends in {ending}: files of both could not be told apart")
    return listed
