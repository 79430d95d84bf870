import pytest
import torch
from monai.data import MetaTensor

from monai_fusenet.transforms import MaskConfidenced


def confidence(mask, probability):
    return MaskConfidenced("pred")({"pred": mask, "probability": probability})["confidence"]


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 3, 5, 4), (2, 5, 7)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.bool])
def test_a_certain_network_is_sure_of_its_mask(shape, kind):
    mask = torch.zeros(shape)
    mask[:, 1:3, 2:] = 1
    assert confidence(mask.to(kind), mask) == 1
    assert confidence(MetaTensor(mask.to(kind)), MetaTensor(mask.half())) == 1


def test_doubt_inside_and_outside_lowers_it():
    mask, probability = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)
    mask[0, 1, 1:4] = 1  # three pixels
    probability[0, 1, 1:4] = 0.8
    assert confidence(mask, probability) == pytest.approx(2 * 2.4 / (3 + 2.4))
    probability[0, 3, :2] = 0.9  # a part that was not kept
    assert confidence(mask, probability) == pytest.approx(2 * 2.4 / (3 + 2.4 + 1.8))


def test_a_power_tells_masks_that_a_network_is_too_sure_of():
    sample = {"pred": torch.ones(1, 1, 4), "probability": torch.full((1, 1, 4), 0.6)}
    assert MaskConfidenced("pred", power=2)(sample)["confidence"] == pytest.approx(0.75**2)  # 2 * 2.4 / (4 + 2.4)
    with pytest.raises(ValueError, match=r"^power must be a finite number of at least 0, got -1$"):
        MaskConfidenced("pred", power=-1)


def test_of_an_empty_mask_nothing_is_said():
    assert confidence(torch.zeros(1, 4, 5), torch.full((1, 4, 5), 0.4)) is None


def test_other_shapes_are_refused():
    message = r"^mask and probability must have the same shape, got \(1, 4, 5\) and \(1, 5, 4\)$"
    with pytest.raises(ValueError, match=message):
        confidence(torch.ones(1, 4, 5), torch.ones(1, 5, 4))


def test_of_several_classes_the_foreground_counts():
    probabilities = torch.tensor([[[0.9, 0.2, 0.4]], [[0.1, 0.5, 0.3]], [[0.0, 0.3, 0.3]]])  # background first
    mask = torch.tensor([[[0, 5, 1]]])
    assert confidence(mask, probabilities) == pytest.approx(2 * (0.8 + 0.6) / (2 + 0.1 + 0.8 + 0.6))
