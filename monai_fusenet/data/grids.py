"""Label maps on the grid of their image, wherever the file of each says that it lies."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple
from monai.utils.misc import ImageMetaKey
from scipy.ndimage import affine_transform

from monai_fusenet.data.claims import text_fields
from monai_fusenet.data.formats import META_IMAGE_SUFFIXES, NRRD_SUFFIXES, PICTURE_SUFFIXES, suffix_of
from monai_fusenet.data.masks import load_mask
from monai_fusenet.utils.geometry import affine_of, same_place

__all__ = ["LoadMaskOnGridd", "load_mask_on_grid_of", "on_grid_of"]

PARALLEL = 1e-3  # voxels that a step within one plane may leave the other by
TIE = 1e-4  # voxels: two neighbours that are equally near, but for rounding, always give the upper one
OUTSIDE = -1  # of the field of view of labels, which are 0 or more

PLACE_FIELDS = {  # of NRRD, then of MetaImage, as `text_fields` tells them: a header without one states no place
    *("spacedirections", "spaceorigin"),
    *("transformmatrix", "rotation", "orientation", "offset", "position", "origin"),
}


def on_grid_of(labels: MetaTensor, image: MetaTensor) -> MetaTensor:
    """Labels on the grid of an image, which may be flipped, permuted, shifted, finer or larger than their own.

    Each voxel of the image takes the label that lies nearest; outside the labels' field of view it is background.
    Grids that agree within 0.01 mm and a tenth of a voxel over all of their voxels are one grid. Where one file
    states no place (pictures, TIFF, NIfTI without any form, NRRD without directions), index belongs to index; of a
    picture and a plane of another format, rows belong to the second axis, as 3D Slicer, ITK and nnU-Net have it, unless
    only the other order fits. A file of two axes states no place along the third: it is compared with planes that are
    parallel to it.

    Args:
        labels: (C, *spatial), whole numbers from 0, as `load_image` returns them.
        image: (C', *spatial'), as `load_image` returns it.

    Returns:
        (C, *spatial'): `labels` itself where it lies on the grid of the image. Else a new int32 tensor with the `meta`
        of the image, and under `outside` the share of the image, in [0, 1], that the labels do not cover.

    Raises:
        ValueError: where the fields of view do not overlap, or sizes differ and one of the two states no place.
    """
    shape, own_shape = tuple(image.shape[1:]), tuple(labels.shape[1:])
    to_labels = _index_map(image, labels)
    if to_labels is None:
        if image.meta["has_geometry"] != labels.meta["has_geometry"] and shape == own_shape[::-1]:
            return _of_image(labels.cpu().numpy().swapaxes(1, 2), labels, image, outside=0.0)
        if shape != own_shape:
            raise ValueError(f"image and mask must have the same size, got {shape} and {own_shape}")
        return labels
    own = np.asarray(affine_of(labels))
    if shape == own_shape and same_place(own, own @ to_labels, shape):
        return labels
    grid, own_grid = (*shape, 1)[:3], (*own_shape, 1)[:3]
    # "constant" would lose the outer half of the outer voxels
    brought = np.stack(
        [
            affine_transform(
                *(channel.reshape(own_grid), to_labels[:3, :3], to_labels[:3, 3] + TIE, grid),
                order=0,
                mode="grid-constant",
                cval=OUTSIDE,
            ).reshape(shape)
            for channel in labels.cpu().numpy().astype(np.int32)
        ]
    )
    outside = brought == OUTSIDE
    if outside.all():
        raise ValueError("the mask lies outside the image: their fields of view do not overlap")
    brought[outside] = 0
    return _of_image(brought, labels, image, float(outside[0].mean()))


def _of_image(brought: np.ndarray, labels: MetaTensor, image: MetaTensor, outside: float) -> MetaTensor:
    meta = {**image.meta, ImageMetaKey.FILENAME_OR_OBJ: labels.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")}
    meta |= {"has_alpha": False, "outside": outside}
    return MetaTensor(torch.from_numpy(brought.astype(np.int32)), affine=image.affine, meta=meta)


def load_mask_on_grid_of(paths: str | os.PathLike | Sequence[str | os.PathLike], image: MetaTensor) -> MetaTensor:
    """The union of one or several label maps of an image, each brought to its grid, see `on_grid_of`.

    Args:
        paths: the mask or masks, of any form that `load_mask` reads.
        image: (C, *spatial), as `load_image` returns it.

    Returns:
        (1, *spatial), uint8, 0 or 1. Its `meta` holds `outside` where a label map had another grid: the largest share
        of the image that such a one does not cover.

    Raises:
        ValueError: where one cannot be read or brought to the grid; the message names it where there are several.
    """
    masks = []
    for path in ensure_tuple(paths):
        try:
            masks.append(on_grid_of(load_mask(path), image))
        except ValueError as error:
            if len(ensure_tuple(paths)) == 1:
                raise
            raise ValueError(f"{os.path.basename(path)}: {error}") from error
    meta = max((mask.meta for mask in masks), key=lambda meta: meta.get("outside", -1))
    union = torch.stack([mask.as_tensor() > 0 for mask in masks]).any(0)
    return MetaTensor(union.to(torch.uint8), meta=meta)


class LoadMaskOnGridd(MapTransform):
    """Dictionary transform: replaces paths of label maps by masks on the grid of an image that is loaded already.

    Args:
        keys: keys of paths, or of lists of paths whose union is the mask, see `load_mask_on_grid_of`.
        image_key: key of the image, before anything has changed its grid.
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
    place, own = _stated_place(image), _stated_place(labels)
    if place is None or own is None:
        return None
    to_labels = np.linalg.inv(own) @ place
    if min(len(image.meta["grid_shape"]), len(labels.meta["grid_shape"])) == 2:
        if image.ndim != labels.ndim or np.abs(to_labels[2, :2]).max() > PARALLEL:
            return None
        to_labels[2] = (0, 0, 1, 0)
    return to_labels


def _stated_place(image: MetaTensor) -> np.ndarray | None:
    """The affine of a loaded image, or `None` where its file states none and a reader has made one up."""
    affine = affine_of(image)
    if affine is None:
        return None
    path = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")
    suffix = suffix_of(path)
    if suffix in PICTURE_SUFFIXES:
        return None
    in_text = suffix in (*NRRD_SUFFIXES, *META_IMAGE_SUFFIXES) and os.path.isfile(path)
    if in_text and not PLACE_FIELDS & dict(text_fields(path)).keys():
        return None
    if stated := image.meta.get("nifti_header"):
        header = nib.Nifti1Header(stated)
        if header["qform_code"] == header["sform_code"] == 0:
            return None
    return affine
