import math
import re

import numpy as np
import pytest
import torch
from batch_norms import assert_right_behind_a_batch_norm
from torch.autograd import gradcheck

from monai_fusenet.losses import ScribbleLoss, scribble_loss
from monai_fusenet.losses.scribble import scribbled_classes

SIZES = pytest.mark.parametrize("spatial", [(5, 3), (4, 3, 5)])
NONE = 255


def draw(*shape):
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def draw_scribble(batch_size, spatial, classes=3):
    torch.manual_seed(1)
    scribble = torch.randint(classes, (batch_size, 1, *spatial))
    scribble[torch.rand(scribble.shape) < 0.5] = NONE
    scribble.flatten(2)[..., :classes] = torch.arange(classes)
    return scribble


def test_a_value_known_by_hand():
    # Odds 3 : 1 where class 0 is drawn, and 1 : 4 where class 1 is; the third pixel is free.
    scores = torch.tensor([[math.log(3), 0.0, 7.0], [0.0, math.log(4), 0.0]]).view(1, 2, 1, 3)
    scribble = torch.tensor([0, 1, NONE]).view(1, 1, 1, 3)
    assert ScribbleLoss()(scores, scribble).item() == pytest.approx((math.log(4 / 3) + math.log(5 / 4)) / 2)


@SIZES
def test_is_the_cross_entropy_that_ignores_a_value(spatial):
    scores, scribble = draw(1, 4, *spatial), draw_scribble(1, spatial)
    expected = torch.nn.functional.cross_entropy(scores, scribble[:, 0], ignore_index=NONE)
    torch.testing.assert_close(ScribbleLoss()(scores, scribble), expected)


@SIZES
def test_an_image_costs_in_a_batch_what_it_costs_alone(spatial):
    scores, scribble = draw(3, 4, *spatial), draw_scribble(3, spatial)
    scribble[1] = NONE
    scribble[2].flatten()[7:] = NONE
    alone = torch.stack([ScribbleLoss()(*pair) for pair in zip(scores.split(1), scribble.split(1), strict=True)])
    assert alone[1] == 0
    torch.testing.assert_close(scribble_loss(scores, scribble), alone)
    torch.testing.assert_close(ScribbleLoss()(scores, scribble), alone.mean())


@SIZES
def test_without_scribbles_nothing_is_asked(spatial):
    scores = draw(2, 4, *spatial).requires_grad_()
    loss = ScribbleLoss()(scores, torch.full((2, 1, *spatial), NONE))
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_another_ignored_value():
    scores = draw(1, 4, 5, 3)
    scribble = draw_scribble(1, (5, 3))
    other = torch.where(scribble == NONE, -1, scribble)
    assert ScribbleLoss(-1)(scores, other).item() == ScribbleLoss()(scores, scribble).item()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
def test_label_maps_of_any_type(dtype):
    scores, scribble = draw(1, 4, 5, 3), draw_scribble(1, (5, 3))
    assert ScribbleLoss()(scores, scribble.to(dtype)).item() == ScribbleLoss()(scores, scribble).item()


@SIZES
@pytest.mark.parametrize("batch_size", [1, 2])
def test_gradients(batch_size, spatial):
    scribble = draw_scribble(batch_size, spatial)
    assert gradcheck(lambda scores: ScribbleLoss()(scores, scribble), draw(batch_size, 4, *spatial).requires_grad_())


@SIZES
@pytest.mark.parametrize("batch_size", [1, 2])
def test_gradients_behind_a_batch_norm(batch_size, spatial):
    scribble = draw_scribble(batch_size, spatial)
    assert_right_behind_a_batch_norm(lambda scores: ScribbleLoss()(scores, scribble), batch_size, spatial)


@pytest.mark.parametrize("shape", [(1, 5, 3), (1, 2, 5, 3), (2, 1, 5, 3), (1, 1, 3, 5), (1, 1, 5, 3, 1)])
def test_another_shape(shape):
    message = f"scribbles must have the shape (B, 1, *spatial) of the scores, (1, 1, 5, 3), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScribbleLoss()(draw(1, 4, 5, 3), torch.full(shape, NONE))


@pytest.mark.parametrize(("classes", "told"), [((1,), "[1]"), ((0, 2), "[0, 2]"), ((-1, 0), "[-1, 0]")])
def test_classes_with_a_gap(classes, told):
    scribble = torch.full((2, 1, 5, 3), NONE)
    scribble[1].flatten()[: len(classes)] = torch.tensor(classes)
    message = f"scribbles must be of the classes 0, 1, 2, ... without a gap, and 255 elsewhere, got {told}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScribbleLoss()(draw(2, 4, 5, 3), scribble)


def test_a_class_that_is_no_whole_number():
    scribble = torch.full((1, 1, 5, 3), 255.0)
    scribble[..., 0] = 0.5
    with pytest.raises(ValueError, match=r"got \[0\.5\]$"):
        ScribbleLoss()(draw(1, 4, 5, 3), scribble)


def test_more_classes_than_clusters():
    with pytest.raises(ValueError, match=r"^there are scribbles of 3 classes, but only 2 clusters$"):
        ScribbleLoss()(draw(1, 2, 5, 3), draw_scribble(1, (5, 3)))


def test_arrays_and_values_that_are_no_numbers():
    with pytest.raises(TypeError, match=r"^scribbles must be a tensor of whole numbers, got ndarray$"):
        scribbled_classes(np.zeros((1, 1, 5, 3)))
    scribble = torch.full((1, 1, 5, 3), float(NONE))
    scribble[:, :, 1, 1] = float("nan")
    with pytest.raises(ValueError, match=r"^scribbles must be of the classes 0, 1, 2, .*, got \[nan\]$"):
        ScribbleLoss()(draw(1, 4, 5, 3), scribble)
