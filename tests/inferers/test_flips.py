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
