"""Sorts found files into images and label maps, and assigns each label map to its image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from monai_fusenet.data.conventions import (
    Folder,
    Rank,
    fold,
    image_keys,
    is_mask,
    mask_rank,
    mask_stems,
    may_be_mask,
    may_hold_masks,
    normal,
    shadow_of,
)

__all__ = ["Assigned", "Found", "Place", "Sorted", "assign", "sort_out"]


Group = tuple[str, ...]  # folders that are no convention
Case = tuple[str, ...]  # those of a group, folded


class Place(NamedTuple):
    """Where an image is among all images: the folders that are no convention, and its stem."""

    group: tuple[str, ...]
    stem: str


class Found(NamedTuple):
    """A file, or the folder of a DICOM series.

    Attributes:
        path: absolute.
        file: relative to the dataset folder.
        stem: its name without suffix.
        folder: what its folder is.
    """

    path: Path
    file: str
    stem: str
    folder: Folder

    @property
    def place(self) -> Place:
        """Its place, should it be an image."""
        return Place(self.folder.group, normal(self.stem))


class Sorted(NamedTuple):
    """Files sorted by name; `others` are neither images nor masks, such as a prediction beside its image."""

    images: list[Found]
    masks: list[Found]
    others: list[Found]


class Assigned(NamedTuple):
    """The masks of each place, those of no image, and those that are not the truth of theirs."""

    owned: dict[Place, list[Found]]
    unmatched: list[Found]
    left_out: list[Found]


def sort_out(found: Iterable[Found]) -> Sorted:
    """Tells images from label maps by their names and folders."""
    images: list[Found] = []
    masks: list[Found] = []
    others: list[Found] = []
    maybe: list[Found] = []
    kept: list[Found] = []
    for one in _in_folders_of_masks(list(found)):
        if one.folder.is_mask or is_mask(one.stem):
            masks.append(one)
        elif may_be_mask(one.stem):
            maybe.append(one)
        else:
            images.append(one)
    index = _Index({one.place for one in images}) if maybe else None
    for one in maybe:
        (masks if index and index.may_name(one) else images).append(one)
    places = {one.place for one in images}
    for one in images:
        original = shadow_of(one.stem)
        is_shadow = original is not None and (
            Place(one.folder.group, normal(original)) in places or is_mask(original)  # a_mask_pred
        )
        (others if is_shadow else kept).append(one)
    return Sorted([one for one in kept if one.file.lower().startswith("images/")] or kept, masks, others)


def _in_folders_of_masks(found: list[Found]) -> list[Found]:
    """The files, those of folders that may hold masks as masks where at least half have the stem of an image beside."""
    folders: dict[Group, list[Found]] = defaultdict(list)
    for one in found:
        depth = next((depth for depth, name in enumerate(one.folder.group, 1) if may_hold_masks(name)), 0)
        if depth and not one.folder.is_mask:
            folders[one.folder.group[:depth]].append(one)
    if not folders:
        return found
    above = {folder[:-1] for folder in folders}
    of_folders = {id(one) for files in folders.values() for one in files}
    # Those of images, by the folders above the one that is replaced, those below it, and what masks may call the image.
    groups: dict[tuple[Group, Group, str], set[Group]] = defaultdict(set)
    for one in found:
        group = one.folder.group
        if not one.folder.is_mask and id(one) not in of_folders:
            for depth in (depth for depth in range(len(group) + 1) if group[:depth] in above):
                for key in image_keys(normal(one.stem)):
                    groups[group[:depth], group[depth + 1 :], key].add(group)
    masks: dict[int, Found] = {}
    for folder, files in folders.items():
        depth = len(folder)
        keys = [
            [(folder[:-1], one.folder.group[depth:], fold(stem)) for stem in mask_stems(one.stem, True)]
            for one in files
        ]
        its_groups = [next((groups[key] for key in its_keys if key in groups), set()) for its_keys in keys]
        if 2 * its_groups.count(set()) <= len(files):
            for one, named in zip(files, its_groups, strict=True):
                group = next(iter(named)) if len(named) == 1 else one.folder.group
                masks[id(one)] = one._replace(folder=one.folder._replace(group=group, is_mask=True))
    return [masks.get(id(one), one) for one in found]


def assign(masks: Sequence[Found], places: Collection[Place]) -> Assigned:
    """Gives each mask to its image.

    A mask belongs to the image with its stem; otherwise to the only image that its stem may mean. If it names no image
    or lies in a folder of masks, it belongs to the only image of its case, unless their numbers differ.
    """
    index = _Index(places)
    owners = {mask: index.named(mask) for mask in masks}
    cases_with_names = {_case(mask.folder.group) for mask, place in owners.items() if place is not None}
    ranked: dict[Place, list[tuple[int, Found]]] = defaultdict(list)
    unmatched, left_out = [], []
    with_observers = {mask.folder.data_set for mask in masks if mask.folder.is_of_observer}
    for mask, named in owners.items():
        is_view = mask.folder.name == "mask" and mask.folder.data_set in with_observers  # DRIVE
        rank = Rank.NO_TRUTH if is_view else mask_rank(mask.stem, mask.folder)
        has_names = _case(mask.folder.group) in cases_with_names and rank < Rank.ANNOTATOR
        place = named or (None if has_names or rank >= Rank.PROPOSAL else index.only(mask))
        if rank == Rank.NO_TRUTH or (rank == Rank.PROPOSAL and place is None):
            left_out.append(mask)
        elif place is None:
            unmatched.append(mask)
        else:
            ranked[place].append((rank, mask))
    owned = {}
    for place, its_masks in ranked.items():
        first = min(rank for rank, _ in its_masks)
        owned[place] = [mask for rank, mask in its_masks if rank == first]
        left_out += [mask for rank, mask in its_masks if rank != first]
    return Assigned(owned, unmatched, left_out)


class _Index:
    """Places by what masks may call them."""

    def __init__(self, places: Collection[Place]) -> None:
        self.places = places

    @cached_property
    def cases(self) -> Mapping[Case, list[Place]]:
        """All places by their case."""
        cases: dict[Case, list[Place]] = defaultdict(list)
        for group, places in groupby(sorted(self.places), key=lambda place: place.group):
            cases[_case(group)] += places
        return cases

    @cached_property
    def keys(self) -> Mapping[tuple[Case, str], list[Place]]:
        """All places by their case and each of the keys of their stem."""
        keys: dict[tuple[Case, str], list[Place]] = defaultdict(list)
        for case, places in self.cases.items():
            for place in places:
                for key in image_keys(place.stem):
                    keys[case, key].append(place)
        return keys

    def named(self, mask: Found) -> Place | None:
        """The image that the stem of a mask names."""
        if mask.folder.is_mask and mask.place in self.places:  # most masks
            return mask.place
        stems = mask_stems(mask.stem, mask.folder.is_mask)
        for stem in stems:
            place = Place(mask.folder.group, normal(stem))
            if place in self.places:
                return place
        case = _case(mask.folder.group)
        for stem in stems:
            places = self.keys.get((case, fold(stem)), ())
            if len(places) == 1:
                return places[0]
        return None

    def may_name(self, mask: Found) -> bool:
        """Whether the stem of a mask names one image, or may mean several."""
        case = _case(mask.folder.group)
        stems = mask_stems(mask.stem, mask.folder.is_mask)
        return self.named(mask) is not None or any((case, fold(stem)) in self.keys for stem in stems)

    def only(self, mask: Found) -> Place | None:
        """The only image of the case of a mask whose stem names none."""
        group = mask.folder.group
        places = self.cases.get(_case(group), ())
        if not places and group:  # the folder is the image: a DICOM series, or sequences in the folder of their case
            folder = Place(group[:-1], group[-1])
            return folder if folder in self.places else None
        if len(places) != 1:
            return None
        (place,) = places
        stems = mask_stems(mask.stem, mask.folder.is_mask)
        if "" in stems:
            counts_images = any(letter.isdigit() for letter in mask.stem) and not mask.stem.lower().endswith(".seg")
            return place if group or not counts_images else None
        is_case = group or "" in image_keys(place.stem)  # the dataset folder is one where its image is called `ct`
        on_another_grid = "_space-" in mask.stem.lower()  # BIDS
        names_another = "" in image_keys(mask.stem) or on_another_grid or _differ_by_number(place, stems)
        return place if mask.folder.is_mask and is_case and not names_another else None


def _differ_by_number(place: Place, stems: Iterable[str]) -> bool:
    """Whether a mask is that of the next image, as `002` beside `001`, unless the case bears the name of its image."""
    if place.group and fold(place.group[-1]) == fold(place.stem):
        return False

    def patterns(keys: Iterable[str]) -> set[str]:
        return {re.sub("[0-9]+", "#", key) for key in keys if any(letter.isdigit() for letter in key)}

    return not patterns(image_keys(place.stem)).isdisjoint(patterns(map(fold, stems)))


def _case(group: tuple[str, ...]) -> Case:
    return tuple(fold(part) for part in group)
