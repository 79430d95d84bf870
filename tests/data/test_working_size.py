"""Images brought to a size, beside MONAI's own resizing."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized

from monai_fusenet.data import WorkingSized
from monai_fusenet.data.working_size import shrinking_matrix

CASES = [
    ((512, 500), (128, 128)),  # as a photograph
    ((37, 53), (8, 61)),  # shrinks and grows
    ((50, 40), (50, 13)),
    ((100, 99), (1, 1)),
    ((7, 9), (14, 30)),
    ((24, 17), (24, 17)),
    ((20, 31, 17), (8, 9, 20)),
    ((64, 5, 33), (11, 5, 4)),
]


def draw(shape, channels=3, dtype=torch.float32):
    image = torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return MetaTensor(image, affine=torch.tensor([[0, 3, 0, 5], [-2.0, 0, 0, 7], [0, 0, 4, -9], [0, 0, 0, 1]]))


def theirs(shape):
    return Resized("image", shape, mode="bilinear" if len(shape) == 2 else "trilinear", anti_aliasing=True)


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_it_resizes_as_monai_does(shape, size):
    image = draw(shape)
    mine, expected = (resize({"image": image})["image"] for resize in (WorkingSized("image", size), theirs(size)))
    assert mine.shape == (3, *size)
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine.as_tensor(), expected.as_tensor(), rtol=0, atol=3e-6)
    torch.testing.assert_close(mine.affine, expected.affine)
    torch.testing.assert_close(image, draw(shape))  # the image stays as it was


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_monai_undoes_it(shape, size):
    found = []
    for resize in (WorkingSized("image", size), theirs(size)):
        chain = Compose([resize])
        undo = Invertd("pred", chain, orig_keys="image", nearest_interp=False)
        sample = chain({"image": draw(shape)})
        found.append(undo({**sample, "pred": sample["image"][:1] ** 2})["pred"])
    assert found[0].shape == (1, *shape)
    torch.testing.assert_close(found[0].as_tensor(), found[1].as_tensor(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0].affine, draw(shape).affine)


def test_the_mean_of_an_axis_that_becomes_half():
    # A Gaussian of half a pixel: the integrals over three pixels are erf(1 / sqrt(2)) and half of what is left.
    middle, side = 0.6826894921370859, 0.15731053860790595
    weights = shrinking_matrix(8, 4).toarray()
    np.testing.assert_allclose(
        weights[1, 1:5], [side / 2, (middle + side) / 2, (middle + side) / 2, side / 2], atol=1e-3
    )
    assert weights.shape == (4, 8)
    np.testing.assert_allclose(weights[1:3].sum(axis=1), 1, atol=1e-4)
    assert weights[0].sum() < 1  # beyond the border are zeros


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bfloat16])
def test_any_type_and_arrays(dtype):
    image = (draw((31, 20)) * 200).to(dtype)
    sample = WorkingSized("image", (9, 40))({"image": image.as_tensor()})
    expected = theirs((9, 40))({"image": image.as_tensor().float()})["image"]
    torch.testing.assert_close(torch.as_tensor(sample["image"]), expected.as_tensor(), rtol=1e-5, atol=1e-3)
    if dtype != torch.bfloat16:
        array = WorkingSized("image", (9, 40))({"image": image.as_tensor().numpy()[:, ::-1]})["image"]
        torch.testing.assert_close(torch.as_tensor(array).flip(1), expected.as_tensor(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(0, 4), (4.5, 4), (True, 4)])
def test_sides_must_be_whole_numbers(size):
    with pytest.raises(ValueError, match=r"^each side of spatial_size must be a whole number"):
        WorkingSized("image", size)


def test_an_image_of_other_axes():
    with pytest.raises(ValueError, match=r"^expected an image of 3 spatial axes, got the shape \(4, 5\)$"):
        WorkingSized("image", (4, 4, 4))({"image": torch.rand(1, 4, 5)})
