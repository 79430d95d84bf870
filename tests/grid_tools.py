"""Label maps as NIfTI files on any grid."""

import nibabel as nib
import numpy as np

from monai_fusenet.data import load_image

SHAPE = (9, 7, 5)
TILTED = np.array([[0.9, -0.5, 0.1, -20], [0.4, 1.1, -0.2, 30], [0.05, 0.3, 2.0, 5], [0, 0, 0, 1]])


def save(path, array, affine):
    nib.save(nib.Nifti1Image(np.asarray(array, np.uint8), affine), path)
    return load_image(path)


def stored(array, affine, axes=(0, 1, 2), flips=()):
    """The same labels in the same places, with other axes in another order."""
    turn = np.eye(4)
    for axis in flips:
        turn[axis, axis], turn[axis, 3] = -1, array.shape[axis] - 1
    array = np.flip(array, flips).transpose(axes)
    order = np.eye(4)[:, [*axes, 3]]
    return array, affine @ turn @ order
