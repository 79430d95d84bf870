import pytest
import torch

from monai_fusenet.inferers import FlipAverageInferer


@pytest.mark.parametrize(("spatial", "flips"), [((3, 5), 4), ((2, 3, 4), 8)])
def test_mean_over_all_mirror_images(spatial, flips):
    seen = []

    def network(image):
        seen.append(image)
        return torch.nn.functional.pad(image, (1, -1))  # moves everything by one pixel, whatever is there

    image = torch.rand(2, 3, *spatial)
    output = FlipAverageInferer()(image, network)
    assert len(seen) == flips
    assert len({one.numpy().tobytes() for one in seen}) == flips
    there, back = (torch.nn.functional.pad(image, pad) for pad in ((1, -1), (-1, 1)))
    torch.testing.assert_close(output, (there + back) / 2)


def test_what_does_not_care_for_mirrors_stays():
    image = torch.rand(1, 1, 4, 6)
    torch.testing.assert_close(FlipAverageInferer()(image, lambda image: image * 2), image * 2)


def test_mirrors_along_chosen_axes():
    image = torch.tensor([[[[1.0, 2, 4], [8, 16, 32]]]])
    weight = torch.tensor([[0.0, 0, 1], [0, 0, 0]])  # looks at the upper right corner only
    outputs = {axes: FlipAverageInferer(axes)(image, lambda image: image * weight) for axes in ((), (0,), (1,), None)}
    assert outputs[()].tolist() == [[[[0, 0, 4], [0, 0, 0]]]]
    assert outputs[0,].tolist() == [[[[0, 0, 2], [0, 0, 16]]]]
    assert outputs[1,].tolist() == [[[[0.5, 0, 2], [0, 0, 0]]]]
    assert outputs[None].tolist() == [[[[0.25, 0, 1], [2, 0, 8]]]]


def test_an_axis_that_is_not_there():
    with pytest.raises(ValueError, match=r"^flip axes must be among \[0, 1\], got \[2\]$"):
        FlipAverageInferer([2])(torch.rand(1, 1, 4, 6), lambda image: image)


def test_further_arguments_of_monai_are_taken_and_not_handed_on():
    image = torch.rand(1, 1, 4, 6)
    output = FlipAverageInferer()(image, lambda image: image * 2, "roi", original=image, field=image)
    torch.testing.assert_close(output, image * 2)
