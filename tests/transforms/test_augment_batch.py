import math

import pytest
import torch
from torch.nn import functional as F

from monai_fusenet.transforms import AugmentBatch

STILL = {
    "rotation": 0,
    "scaling": 0,
    "stretch": 0,
    "translation": 0,
    "bending": 0,
    "gamma": 0,
    "contrast": 0,
    "brightness": 0,
    "colour": 0,
    "shading": 0,
    "noise": 0,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(13, 21), (7, 12, 9)])
def test_nothing_changes_where_nothing_may(size):
    image, target = torch.rand(3, 2, *size), torch.rand(3, 1, *size)
    moved, mask = AugmentBatch(**STILL)(image, target)
    assert torch.allclose(moved, image, atol=1e-5)
    assert torch.allclose(mask, target, atol=1e-5)


@pytest.mark.parametrize(("size", "axis"), [((13, 21), 0), ((13, 21), 1), ((7, 12, 9), 0), ((7, 12, 9), 2)])
def test_images_and_masks_are_mirrored_together_along_the_axes_named(size, axis):
    image = torch.rand(16, 1, *size)
    moved, mask = AugmentBatch((axis,), **STILL)(image, image)
    assert torch.allclose(moved, mask, atol=1e-5)
    mirrored = image.flip(2 + axis)
    is_same = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(moved, image, strict=True)]
    is_mirrored = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(moved, mirrored, strict=True)]
    assert all(one != other for one, other in zip(is_same, is_mirrored, strict=True))
    assert 0 < sum(is_same) < 16


def test_a_disc_stays_a_disc_in_an_image_of_unequal_sides():
    """A rotation turns by an angle, whatever the sides are; a shear would stretch the disc."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(90.0), indexing="ij")
    disc = (((rows - 19.5) ** 2 + (columns - 44.5) ** 2).sqrt() < 12).float().expand(20, 1, 40, 90)
    _, turned = AugmentBatch(**(STILL | {"rotation": math.pi}))(disc, disc)
    assert (turned - disc).abs().mean() < 0.01


def test_rotation_turns_by_the_angle_drawn(monkeypatch):
    monkeypatch.setattr(AugmentBatch, "_even", staticmethod(lambda *shape: torch.ones(*shape)))
    image = torch.zeros(1, 1, 21, 31)
    image[0, 0, 10, 15:25] = 1  # from the centre to the right
    turned, _ = AugmentBatch(**(STILL | {"rotation": math.pi / 2}))(image, image)
    assert torch.allclose(turned[0, 0].sum(dim=0)[14:17].sum(), torch.tensor(10.0), atol=0.5)
    assert turned[0, 0, :, 15].sum() > 9


def test_scaling_has_the_bounds_that_it_names(monkeypatch):
    for sign, share in ((1, 1 / 1.25**2), (-1, 1.25**2)):
        monkeypatch.setattr(AugmentBatch, "_even", staticmethod(lambda *shape, sign=sign: sign * torch.ones(*shape)))
        square = F.pad(torch.ones(1, 1, 40, 40), (40, 40, 40, 40))
        scaled, _ = AugmentBatch(**(STILL | {"scaling": 0.25}))(square, square)
        assert scaled.sum() / square.sum() == pytest.approx(share, rel=0.05)


def test_only_images_are_lit():
    light = dict.fromkeys(("gamma", "contrast", "brightness", "colour", "shading", "noise"), 0.5)
    image, target = torch.rand(8, 3, 16, 16), (torch.rand(8, 1, 16, 16) > 0.5).float()
    lit, mask = AugmentBatch(**(STILL | light))(image, target)
    assert torch.allclose(mask, target, atol=1e-5)
    assert (lit - image).abs().mean() > 0.02
    assert torch.isfinite(lit).all()


def test_draws_follow_the_seed_alone():
    image, target, augment = torch.rand(2, 1, 16, 12), torch.rand(2, 1, 16, 12), AugmentBatch((0,))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augment(image, target)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"must be batches of one size.*got \(2, 1, 8, 8\) and \(2, 1, 8, 9\)"):
        AugmentBatch()(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 9))
    with pytest.raises(ValueError, match="image must hold floats"):
        AugmentBatch()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="flip_axes must be below 2"):
        AugmentBatch((2,))(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="each of flip_axes"):
        AugmentBatch((-1,))
    with pytest.raises(ValueError, match="rotation"):
        AugmentBatch(rotation=-1)


def test_stretch_is_the_ratio_of_the_scales(monkeypatch):
    draws = torch.tensor([[1.0, -1.0]])
    monkeypatch.setattr(
        AugmentBatch, "_even", staticmethod(lambda *shape: draws if shape == (1, 2) else torch.zeros(*shape))
    )
    square = F.pad(torch.ones(1, 1, 60, 60), (30, 30, 30, 30))
    moved, _ = AugmentBatch(**(STILL | {"stretch": 0.3}))(square, square)
    sides = [(moved[0, 0, 60] > 0.5).sum(), (moved[0, 0, :, 60] > 0.5).sum()]
    assert float(sides[1] / sides[0]) == pytest.approx(math.exp(0.3), rel=0.04)
