"""Scribbles take part in a fit, whichever method runs."""

import re

import pytest
import torch
from toy_method import ToyLoss, draw_toy_network, mirror

from monai_fusenet.inferers import PerImageInferer, per_image
from monai_fusenet.inferers.fit import resized_scribble
from monai_fusenet.losses import FeatureClusteringLoss, FuseNetLoss
from monai_fusenet.networks import FeatureClusteringNet, FuseNet
from monai_fusenet.transforms import AugmentPaird
from monai_fusenet.utils.scores import merged

NONE = 255
METHODS = {
    "FuseNet": {
        **{"network": lambda dims: FuseNet(dims, features=8, patch_grid=2), "loss_function": FuseNetLoss()},
        **{"augmentation": AugmentPaird()},
    },
    "feature clustering": {
        **{"network": lambda dims: FeatureClusteringNet(dims, features=8), "loss_function": FeatureClusteringLoss()},
        **{"augmentation": dict, "lr": 0.1, "first_step": 1},
    },
    "another method": {
        **{"network": lambda dims: draw_toy_network(dims, clusters=6), "loss_function": ToyLoss()},
        **{"augmentation": mirror, "lr": 0.3},
    },
}
CLUSTERING = pytest.mark.parametrize("method", ["FuseNet", "feature clustering"])
EACH = pytest.mark.parametrize("method", METHODS)
SIZES = pytest.mark.parametrize("spatial", [(33, 24), (24, 20, 16)])


def half_planes(spatial, batch_size=1):
    """Dark above, bright below, with noise; a stroke of class 1 on the dark half, and one of class 0 on the other."""
    generator = torch.Generator().manual_seed(0)
    lower = torch.zeros(1, 1, *spatial)
    lower[:, :, spatial[0] // 2 :] = 1
    images = 0.25 + 0.5 * lower + 0.05 * torch.randn(batch_size, 3, *spatial, generator=generator)
    scribble = torch.full((batch_size, 1, *spatial), NONE)
    middle = tuple(side // 2 for side in spatial[1:])
    scribble[(..., slice(2, 5), *middle)], scribble[(..., slice(-5, -2), *middle)] = 1, 0
    return images.clamp(0, 1), scribble, 1 - lower[0, 0].long()


def inferer_of(method, **options):
    chosen = {name: value for name, value in METHODS[method].items() if name != "network"}
    return PerImageInferer(**{"steps": 40, **chosen, **options})


@CLUSTERING
@SIZES
def test_scribbled_halves_become_the_clusters_of_their_classes(method, spatial):
    network = METHODS[method]["network"](len(spatial))
    images, scribble, expected = half_planes(spatial)
    inferer = inferer_of(method)
    labels = merged(network, inferer(images, network, scribble=scribble)).argmax(dim=1)[0]
    assert (labels == expected).float().mean() > 0.9


@CLUSTERING
def test_a_coarse_to_fine_fit_listens_at_each_resolution(method):
    network = METHODS[method]["network"](2)
    images, scribble, expected = half_planes((48, 40))
    inferer = inferer_of(method, resolutions=[13, 40])
    labels = merged(network, inferer(images, network, scribble=scribble)).argmax(dim=1)[0]
    assert (labels == expected).float().mean() > 0.9


@EACH
def test_a_batch_is_fitted_as_its_images_alone(method):
    network = METHODS[method]["network"](2)
    images, scribble, _ = half_planes((33, 24), batch_size=3)
    scribble[1] = NONE
    inferer = inferer_of(method, steps=3, max_refits=0, at_once=2)
    together = inferer(images, network, scribble=scribble)
    alone = [
        inferer(one, network, scribble=drawn) for one, drawn in zip(images.split(1), scribble.split(1), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[1:2], inferer(images[1:2], network))


def test_a_fit_ends_when_as_many_clusters_are_left_as_there_are_classes():
    images, scribble, _ = half_planes((33, 24))
    network = FeatureClusteringNet(features=3)
    inferer = inferer_of("feature clustering", min_clusters=0)
    inferer(images, network, scribble=scribble)
    assert 1 < inferer.record[0].steps < 40
    assert inferer.record[0].clusters == 2
    scribble[..., 10, 3] = 2
    inferer(images, network, scribble=scribble)
    assert inferer.record[0].steps == 1  # three clusters are no more than three classes


def test_strokes_survive_a_small_grid():
    scribble = torch.full((1, 1, 40, 30), NONE)
    scribble[..., 7, 11] = 0  # a click
    scribble[..., 20:40, 21] = 1
    small = resized_scribble(scribble, [8, 6])
    assert small.shape == (1, 1, 8, 6)
    assert (small[0, 0] == 0).nonzero().tolist() == [[1, 2]]
    assert (small[0, 0] == 1).nonzero().tolist() == [[row, 4] for row in (4, 5, 6, 7)]
    assert (small == NONE).sum() == 48 - 5


@pytest.mark.parametrize("size", [(6, 10), (2, 3, 4)])
def test_a_map_without_strokes_or_of_that_size_stays(size):
    empty = torch.full((1, 1, *[2 * side for side in size]), NONE)
    assert torch.equal(resized_scribble(empty, size), torch.full((1, 1, *size), NONE))
    drawn = torch.zeros(1, 1, *size, dtype=torch.long)
    assert resized_scribble(drawn, size) is drawn


def test_a_fit_at_a_smaller_size_where_memory_does_not_suffice(monkeypatch):
    genuine = per_image.descend

    def descend(fit, descent):
        if fit.views["image"].shape[-1] > 40:
            raise MemoryError
        assert fit.views["scribble"].shape[2:] == fit.views["image"].shape[2:]
        genuine(fit, descent)

    monkeypatch.setattr(per_image, "descend", descend)
    images, scribble, expected = half_planes((70, 50))
    network = FeatureClusteringNet(features=8)
    inferer = inferer_of("feature clustering")
    scores = inferer(images, network, scribble=scribble)
    assert inferer.record[0].wanted_size == (70, 50)
    assert (scores.argmax(dim=1)[0] == expected).float().mean() > 0.9


@pytest.mark.parametrize("shape", [(33, 24), (1, 33, 24), (2, 1, 33, 24), (1, 1, 24, 33)])
def test_scribbles_of_another_shape(shape):
    images, _, _ = half_planes((33, 24))
    message = f"scribbles must have the shape (B, 1, *spatial) of the images, (1, 1, 33, 24), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        inferer_of("feature clustering")(images, FeatureClusteringNet(), scribble=torch.full(shape, NONE))


def test_classes_with_a_gap():
    images, scribble, _ = half_planes((33, 24))
    with pytest.raises(ValueError, match=r"without a gap, and 255 elsewhere, got \[0, 2\]$"):
        inferer_of("FuseNet")(images, FuseNet(), scribble=torch.where(scribble == 1, 2, scribble))


def test_without_steps_nothing_can_be_guided():
    images, scribble, _ = half_planes((33, 24))
    with pytest.raises(ValueError, match=r"^scribbles guide a fit, and steps=0 makes none$"):
        inferer_of("FuseNet", steps=0)(images, FuseNet(), scribble=scribble)


def test_a_fit_that_listens_makes_steps_at_the_last_size_too():
    images, scribble, _ = half_planes((40, 32))
    inferer = inferer_of("feature clustering", steps=3, resolutions=[16, 32], final_steps=0, min_clusters=0)
    network = FeatureClusteringNet(features=8)
    inferer(images, network)
    assert inferer.record[0].steps == 3
    inferer(images, network, scribble=scribble)
    assert 3 < inferer.record[0].steps <= 6
