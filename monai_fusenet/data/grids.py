"""Label maps brought to the grid of their image, by the geometry in both files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.utils import ensure_tuple
from monai.utils.misc import ImageMetaKey
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn import functional as F

from monai_fusenet.data.blocks import in_middles
from monai_fusenet.data.masks import load_labels, load_mask
from monai_fusenet.utils.arrays import plain, resize_nearest
from monai_fusenet.utils.errors import printable
from monai_fusenet.utils.geometry import affine_of, same_place

__all__ = [
    "LoadMaskOnGridd",
    "load_labels_on_grid_of",
    "load_mask_on_grid_of",
    "nearest_on_grid_of",
    "on_grid_of",
    "shares_on_grid_of",
]

PARALLEL = 1e-3  # voxels that a step within one plane may leave the other by
ALIGNED = 1e-2  # voxels that an axis of one grid may leave that of another by, over its whole length
TIE = 1e-4  # voxels: two neighbours that are equally near, but for rounding, always give the upper one
PLACE_REMEDY = "save the mask with the affine (origin, spacing, directions) of the image"
OUTSIDE = -1  # of the field of view of labels, which are 0 or more
UNITS = {1: 1e3, 2: 1.0, 3: 1e-3}  # codes of NIfTI for metres, millimetres and micrometres, in mm; others are unknown


def on_grid_of(labels: MetaTensor, image: MetaTensor) -> MetaTensor:
    """Brings labels to the grid of an image, which may be flipped, permuted, shifted, finer or larger than theirs.

    Each voxel of the image gets the nearest label; outside the labels' field of view it is background. Grids that agree
    within 0.01 mm and a tenth of a voxel over all of their voxels are one grid. NIfTI files in metres or micrometres
    are compared in millimetres, as ITK reads them, unless the bare numbers of both agree already.

    If one file states no place (see `states_place` of `load_image`), voxels are matched by index. For a picture and a
    plane of another format, rows then belong to the second axis, as in 3D Slicer, ITK and nnU-Net, unless only the
    other order fits. A file of two axes states no place along the third: it is compared with planes that are parallel
    to it.

    Args:
        labels: (C, *spatial), whole numbers from 0, as `load_image` returns them.
        image: (C', *spatial'), as `load_image` returns it.

    Returns:
        (C, *spatial'): `labels` itself if it lies on the grid of the image. Otherwise a new int32 tensor with the
        `meta` of the image and two shares in [0, 1]: `outside` is the share of the image that the labels do not cover,
        `lost` the share of voxels with labels above 0 that lie outside the image.

    Raises:
        ValueError: if the fields of view do not overlap, or sizes differ and one of the two states no place.
    """
    shape, own_shape = tuple(image.shape[1:]), tuple(labels.shape[1:])
    to_labels = _index_map(image, labels)
    if to_labels is None:
        return _by_index(labels, image)
    own = np.asarray(affine_of(labels))
    if shape == own_shape and same_place(own, own @ to_labels, shape):
        return labels
    grid = (*shape, 1)[:3]
    volumes = labels.cpu().numpy().astype(np.int32).reshape(-1, *(*own_shape, 1)[:3])
    brought = np.stack([_nearest(volume, to_labels, grid) for volume in volumes])
    outside = brought == OUTSIDE
    if outside.all():
        raise ValueError(f"the mask lies outside the image, their fields of view do not overlap: {PLACE_REMEDY}")
    brought[outside] = 0
    lost = _lost(np.any(volumes > 0, axis=0), np.linalg.inv(to_labels), grid)
    return _of_image(brought.reshape(-1, *shape), labels, image, float(outside[0].mean()), lost)


def _by_index(labels: MetaTensor, image: MetaTensor) -> MetaTensor:
    """Labels on the grid of an image where index belongs to index, see `on_grid_of`."""
    shape, own_shape = _shape_in_file(image), _shape_in_file(labels)
    is_turned = image.meta["has_geometry"] != labels.meta["has_geometry"] and shape == own_shape[::-1]
    if shape != own_shape and not is_turned:
        raise ValueError(f"image and mask must have the same size, got {shape} and {own_shape}")
    block, own_block = (int(one.meta.get("block", 1)) for one in (image, labels))
    if block == own_block and not is_turned:
        return labels
    values = labels.cpu().numpy().swapaxes(1, 2) if is_turned else labels.cpu().numpy()
    if block > own_block:  # only of pictures there are working copies
        values = in_middles(values, block)
    elif block < own_block:
        values = values[:, np.arange(shape[0]) // own_block][:, :, np.arange(shape[1]) // own_block]
    return _of_image(values, labels, image, outside=0.0, lost=0.0)


def _shape_in_file(image: MetaTensor) -> tuple[int, ...]:
    """The spatial shape of an image, or of the picture that it is a working copy of."""
    is_copy = int(image.meta.get("block", 1)) > 1
    return tuple(int(side) for side in (image.meta["file_shape"] if is_copy else image.shape[1:]))


def shares_on_grid_of(masks: MetaTensor, image: MetaTensor) -> Tensor:
    """The share of each pixel of a prepared image that a mask of the loaded image covers.

    Args:
        masks: (C, *spatial), foreground above 0, on the grid on which the image was loaded.
        image: (C', *grid), the image after crops and resizing by transforms that keep its affine, as MONAI's do.

    Returns:
        (C, *grid), float32 in [0, 1].
    """
    part = plain(masks > 0)[(slice(None), *_covered(masks, image))].float()
    return F.interpolate(part.unsqueeze(0), size=tuple(image.shape[1:]), mode="area")[0]


def nearest_on_grid_of(labels: MetaTensor, image: MetaTensor) -> np.ndarray:
    """Brings a label map of a loaded image to the grid of the same image after its preparation.

    Args:
        labels: (1, *spatial), as the masks of `shares_on_grid_of`.
        image: (C', *grid), as there.

    Returns:
        (*grid), the nearest labels.
    """
    return resize_nearest(plain(labels)[0].numpy()[_covered(labels, image)], image.shape[1:])


def _covered(labels: MetaTensor, image: MetaTensor) -> tuple[slice, ...]:
    """The part of labels that the grid of a prepared image covers."""
    to_labels = np.linalg.inv(to_affine_nd(3, np.asarray(labels.affine))) @ to_affine_nd(3, np.asarray(image.affine))
    part = []
    for axis, (side, whole) in enumerate(zip(image.shape[1:], labels.shape[1:], strict=True)):
        step, shift = to_labels[axis, axis], to_labels[axis, 3]
        first = min(max(round(shift - step / 2 + 0.5), 0), whole - 1)
        part.append(slice(first, min(max(round(shift + step * (side - 0.5) + 0.5), first + 1), whole)))
    return tuple(part)


def _of_image(brought: np.ndarray, labels: MetaTensor, image: MetaTensor, outside: float, lost: float) -> MetaTensor:
    meta = {**image.meta, ImageMetaKey.FILENAME_OR_OBJ: labels.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")}
    meta |= {"has_alpha": False, "outside": outside, "lost": lost}
    return MetaTensor(torch.from_numpy(brought.astype(np.int32)), meta=meta)


def load_mask_on_grid_of(paths: str | os.PathLike | Sequence[str | os.PathLike], image: MetaTensor) -> MetaTensor:
    """The union of one or several label maps of an image, each brought to its grid, see `on_grid_of`.

    Args:
        paths: the mask or masks, of any form that `load_mask` reads.
        image: (C, *spatial), as `load_image` returns it.

    Returns:
        (1, *spatial), uint8, 0 or 1. If a label map had another grid, its `meta` holds `outside`, the largest share of
        the image that such a map does not cover, and `lost`, the share of the foreground outside the image.

    Raises:
        ValueError: if a map cannot be read or brought to the grid (the message names it if there are several), or if
            there is foreground, but none of it is left on the grid of the image.
    """
    paths = ensure_tuple(paths)
    if not paths:
        raise ValueError("expected the path of a mask, got an empty list")
    brought, volumes = [], []
    for mask in _united_by_grid(paths):
        with _named(mask.meta[ImageMetaKey.FILENAME_OR_OBJ], paths):
            brought.append(on_grid_of(mask, image))
        volumes.append(mask.count_nonzero().item() * abs(np.linalg.det(mask.affine)))
    union = torch.stack([mask.as_tensor() > 0 for mask in brought]).any(0)
    meta = dict(max(brought, key=lambda mask: mask.meta.get("outside", -1)).meta)
    if "lost" in meta and any(volumes):
        meta["lost"] = float(np.average([mask.meta.get("lost", 0.0) for mask in brought], weights=volumes))
        if not union.any():
            raise ValueError(_all_is_lost(meta["lost"]))
    return MetaTensor(union.to(torch.uint8), meta=meta)


def load_labels_on_grid_of(path: str | os.PathLike, image: MetaTensor) -> MetaTensor:
    """The labels of one mask, see `load_labels`, brought to the grid of its image, see `on_grid_of`.

    Args:
        path: the mask.
        image: (C, *spatial), as `load_image` returns it.

    Returns:
        (1, *spatial), int32, 0 and labels up to 65535, with the `meta` that `on_grid_of` gives.

    Raises:
        ValueError: if it cannot be read or brought to the grid, or there is foreground, but none of it is left on the
            grid of the image.
    """
    labels = load_labels(path)
    brought = on_grid_of(labels, image)
    if labels.any() and not brought.any():
        raise ValueError(_all_is_lost(brought.meta["lost"]))
    return brought


def _united_by_grid(paths: Sequence[str | os.PathLike]) -> list[MetaTensor]:
    """The masks of files, of which those on one grid are one: a scan may come with a hundred organs."""
    united: list[MetaTensor] = []
    for path in paths:
        with _named(path, paths):
            mask = load_mask(path)
        for other in united:
            if _grid_of(other) == _grid_of(mask):
                other.as_tensor().bitwise_or_(mask.as_tensor())
                break
        else:
            united.append(mask)
    return united


def _grid_of(mask: MetaTensor) -> tuple[Any, ...]:
    """What masks that lie alike have in common."""
    meta = mask.meta
    place = np.asarray(mask.affine).tobytes(), meta["has_geometry"], meta["states_place"], _unit(mask)
    return (tuple(mask.shape), tuple(meta["grid_shape"]), *place)


@contextmanager
def _named(path: str | os.PathLike, paths: Sequence[str | os.PathLike]) -> Iterator[None]:
    """Says which of several masks an error is about."""
    try:
        yield
    except ValueError as error:
        if len(paths) == 1:
            raise
        raise ValueError(f"{printable(os.path.basename(path))}: {error}") from error


def _all_is_lost(lost: float) -> str:
    if lost < 1:
        return (
            f"no foreground of the mask is left on the grid of the image: {lost:.0%} of it lies outside the image, the "
            "rest is smaller than its voxels"
        )
    return f"the foreground of the mask lies outside the image, though their fields of view overlap: {PLACE_REMEDY}"


class LoadMaskOnGridd(MapTransform):
    """Dictionary transform: replaces paths of label maps by masks on the grid of an image that is already loaded.

    Args:
        keys: keys of paths, or of lists of paths whose union is the mask, see `load_mask_on_grid_of`.
        image_key: key of the image, which must still be on its loaded grid.
        allow_missing_keys: whether samples may lack a key of `keys`.

    Shape:
        path -> (1, *spatial of the image), uint8, 0 or 1

    Raises:
        ValueError: as `load_mask_on_grid_of`.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a new dictionary with the masks in the place of their paths."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = load_mask_on_grid_of(sample[key], sample[self.image_key])
        return sample


def _index_map(image: MetaTensor, labels: MetaTensor) -> np.ndarray | None:
    """The 4 x 4 matrix from indices of an image to those of labels; `None` where places cannot be compared."""
    place, own = affine_of(image), affine_of(labels)
    if place is None or own is None or not (image.meta["states_place"] and labels.meta["states_place"]):
        return None
    unit, own_unit = _unit(image), _unit(labels)
    agree = image.shape[1:] == labels.shape[1:] and same_place(own, place, image.shape[1:])
    if unit and own_unit and not agree:  # many programs hand on the numbers and drop the unit
        place = np.diag([unit / own_unit] * 3 + [1]) @ place
    to_labels = np.linalg.inv(own) @ place
    if min(len(image.meta["grid_shape"]), len(labels.meta["grid_shape"])) == 2:
        if image.ndim != labels.ndim or np.abs(to_labels[2, :2]).max() > PARALLEL:
            return None
        to_labels[2] = (0, 0, 1, 0)
    return to_labels


def _unit(image: MetaTensor) -> float | None:
    """The unit of the affine of a loaded image, in mm; `None` where its file states none."""
    stated = image.meta["nifti_header"]
    return UNITS.get(int(nib.Nifti1Header(stated)["xyzt_units"]) & 7) if stated else UNITS[2]


def _nearest(labels: np.ndarray, to_labels: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The labels (3 axes) that lie nearest to the voxels of a grid, `OUTSIDE` where there is none."""
    matrix, shift = to_labels[:3, :3], to_labels[:3, 3] + TIE
    along = np.abs(matrix).argmax(axis=1)  # the axis of the grid that each of the labels' lies along
    off = np.abs(matrix) @ (np.array(grid) - 1) - np.abs(matrix[range(3), along]) * (np.array(grid)[along] - 1)
    if len(set(along)) < 3 or off.max() > ALIGNED:
        # "constant" would lose the outer half of the outer voxels
        return affine_transform(labels, matrix, shift, grid, order=0, mode="grid-constant", cval=OUTSIDE)
    # axis by axis: of grids that are only flipped, permuted, shifted or scaled, which is exact and far faster
    places = [np.floor(matrix[own, axis] * np.arange(grid[axis]) + shift[own] + 0.5) for own, axis in enumerate(along)]
    for own, place in enumerate(places):
        inside = (place >= 0) & (place < labels.shape[own])
        nearest = labels.take(np.where(inside, place, 0).astype(int), axis=own)
        np.moveaxis(nearest, own, 0)[~inside] = OUTSIDE
        labels = nearest
    return labels.transpose(np.argsort(along))


def _lost(foreground: np.ndarray, to_grid: np.ndarray, grid: tuple[int, ...]) -> float:
    """The share of foreground (3 axes, bool) whose voxels have their centres outside a grid; 0 of none."""
    ends = np.array(grid)[:, None] - 0.5 + TIE
    inside = 0
    for index, plane in enumerate(foreground):  # by planes, for indices take far more memory than labels
        rows, columns = np.nonzero(plane)
        places = to_grid[:3, :3] @ (np.full_like(rows, index), rows, columns) + to_grid[:3, 3:]
        inside += int(((places > -0.5 - TIE) & (places < ends)).all(axis=0).sum())
    return 1 - inside / int(foreground.sum()) if foreground.any() else 0.0
