"""Many networks in one pass, whatever they put out."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from toy_method import ToyLoss, ToyOutput, draw_toy_network, mirror

from monai_fusenet.inferers.ensemble import NetworkEnsemble, SumOverImages
from monai_fusenet.inferers.fit import random_state


def ensemble_of(networks):
    device = torch.device("cpu")
    return NetworkEnsemble(networks, [random_state(device)] * len(networks), device)


def draw_networks(spatial, count=3):
    networks = []
    for seed in range(count):
        networks.append(draw_toy_network(len(spatial)))
        with torch.no_grad():
            networks[-1].second.bias += seed
    return networks


@pytest.mark.parametrize("spatial", [(9, 7), (5, 4, 6)])
def test_outputs_keep_their_type(spatial):
    networks, images = draw_networks(spatial), torch.rand(3, 3, *spatial)
    ensemble = ensemble_of(networks)
    scores = ensemble(images)
    assert type(scores) is torch.Tensor
    pairs = list(zip(networks, images.split(1), strict=True))
    torch.testing.assert_close(scores, torch.cat([network(image) for network, image in pairs]))
    output = ensemble(images, 1 - images)
    assert type(output) is ToyOutput
    torch.testing.assert_close(output.scores, scores)
    torch.testing.assert_close(output.augmented_scores, torch.cat([network(1 - image) for network, image in pairs]))


class Counting(nn.Module):
    """Adds to every score how often it was called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image):
        self.calls += 1
        return self.weight * image + self.calls


def test_buffers_go_back_to_their_networks():
    networks = [Counting(), Counting()]
    networks[1].calls += 10
    ensemble = ensemble_of(networks)
    ensemble(torch.zeros(2, 1, 3, 5))
    assert ensemble(torch.zeros(2, 1, 3, 5)).amax(dim=(1, 2, 3)).tolist() == [2, 12]
    for index, network in enumerate(networks):
        ensemble.copy_weights(index, network)
    assert [network.calls.item() for network in networks] == [2, 12]


class Terms(NamedTuple):
    total: torch.Tensor
    weight: torch.Tensor


def test_terms_are_summed_whatever_their_names():
    class Brightness:
        def terms(self, output, batch):
            mean = (output.scores * batch["image"]).mean()
            return Terms(mean + 1, mean)

    image = torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1, 1)
    terms = SumOverImages(Brightness()).terms(ToyOutput(torch.ones(3, 1, 1, 1), image), {"image": image})
    assert type(terms) is Terms
    assert terms.weight.item() == 1 + 2 + 6
    assert terms.total.item() == 1 + 2 + 6 + 3


def test_the_loss_sees_all_views_of_all_images():
    images, network = torch.rand(2, 3, 9, 7), draw_toy_network()
    samples = [mirror({"image": image}) for image in images]
    batch = {key: torch.stack([one[key] for one in samples]) for key in ("image", "augmented", "correspondence")}
    summed = SumOverImages(ToyLoss()).terms(network(images, batch["augmented"]), batch)
    alone = [
        ToyLoss().terms(
            network(*(batch[key][[index]] for key in ("image", "augmented"))),
            {"correspondence": batch["correspondence"][[index]]},
        )
        for index in range(2)
    ]
    torch.testing.assert_close(summed.total, alone[0].total + alone[1].total)
