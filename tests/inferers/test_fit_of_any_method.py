"""`PerImageInferer` fits a method that is not FuseNet: its own network, views and loss."""

import pytest
import torch
from torch import nn
from toy_method import ImageLoss, ToyLoss, draw_toy_network, mirror

from monai_fusenet.inferers import PerImageInferer, content_seed
from monai_fusenet.inferers.fit import draw_views
from monai_fusenet.networks import FuseNet, SlicewiseNetwork
from monai_fusenet.transforms import AugmentPaird

SIZES = [(13, 9), (7, 5, 6)]
METHODS = {"pair": (ToyLoss, mirror), "image alone": (ImageLoss, dict)}


def draw_images(spatial, batch_size=1, dtype=torch.float32):
    return torch.rand(batch_size, 3, *spatial, generator=torch.Generator().manual_seed(0)).to(dtype)


def inferer_of(method, **options):
    make_loss, views = METHODS[method]
    options = {"steps": 4, "min_clusters": 0, "max_refits": 0, **options}
    return PerImageInferer(loss_function=make_loss(), augmentation=views, **options)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_equals_a_hand_written_loop(spatial, method):
    image = draw_images(spatial)
    inferer = inferer_of(method)
    scores = inferer(image, draw_toy_network(len(spatial)))

    torch.manual_seed(content_seed(image[0]))
    network = draw_toy_network(len(spatial))
    torch.manual_seed(content_seed(image[0]))
    network.first.reset_parameters()
    network.second.reset_parameters()
    make_loss, views = METHODS[method]
    batch = {key: value.unsqueeze(0) for key, value in views({"image": image[0]}).items() if key != "file"}
    pair = [batch[key] for key in ("image", "augmented") if key in batch]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        output = network(*pair)
        if method == "image alone":
            (0.5 * (output[:, 0] - image.mean(dim=1)).square().mean()).backward()
        else:
            make_loss().terms(output, batch).total.backward()
        optimizer.step()
    with torch.no_grad():
        output = network(*pair)
    assert torch.equal(scores, output if method == "image alone" else output.scores)
    (record,) = inferer.record
    assert record.steps == 4
    assert record.size == spatial
    if method == "image alone":
        assert record.augmented is None
    else:
        assert torch.equal(record.augmented, image[0].flip(-1))


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_images_fitted_together_get_what_they_get_alone(spatial, method):
    images = draw_images(spatial, batch_size=3, dtype=torch.float64)
    network = draw_toy_network(len(spatial)).double()
    options = {"resolutions": [0.6, 1.0]}
    alone, together = inferer_of(method, **options), inferer_of(method, at_once=2, **options)
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=0, atol=1e-6)
    assert [record.steps for record in together.record] == [8, 8, 8]


def test_slices_of_volumes_fitted_together_get_what_they_get_alone():
    torch.manual_seed(0)
    network = SlicewiseNetwork(FuseNet(2, 9, features=4, patch_grid=2), neighbours=1).double()
    volumes = draw_images((7, 5, 4), batch_size=2, dtype=torch.float64)
    alone, together = (PerImageInferer(3, min_clusters=0, max_refits=0, at_once=count) for count in (1, 2))
    torch.testing.assert_close(together(volumes, network), alone(volumes, network), rtol=0, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize(("first_step", "steps"), [(1, 1), (3, 3), (9, 5)])
def test_the_first_step_that_may_be_the_last(at_once, first_step, steps):
    inferer = inferer_of("pair", steps=5, min_clusters=5, first_step=first_step, at_once=at_once)
    inferer(draw_images((13, 9), batch_size=2), draw_toy_network())
    assert [record.steps for record in inferer.record] == [steps, steps]


def test_the_first_step_counts_from_the_beginning_of_the_fit():
    inferer = inferer_of("pair", steps=3, resolutions=[0.5, 1.0], min_clusters=5, first_step=5)
    inferer(draw_images((13, 9)), draw_toy_network())
    assert inferer.record[0].steps == 3 + 2


@pytest.mark.parametrize("first_step", [0, -1, 1.5, True, "6"])
def test_first_steps_that_are_none(first_step):
    with pytest.raises(ValueError, match=r"^first_step must be a whole number of at least 1, got"):
        PerImageInferer(first_step=first_step)


@pytest.mark.parametrize("spatial", SIZES)
def test_no_steps_without_a_second_view(spatial):
    images, network = draw_images(spatial, batch_size=2), draw_toy_network(len(spatial))
    inferer = inferer_of("pair", steps=0)
    with torch.no_grad():
        torch.testing.assert_close(inferer(images, network), network(images))
    assert [(record.steps, record.augmented) for record in inferer.record] == [(0, None)] * 2


def test_no_steps_with_a_second_view():
    image, second = draw_images((13, 9), batch_size=2).split(1)
    network = draw_toy_network()
    inferer = PerImageInferer(steps=0, augmentation=AugmentPaird(second_view_channels=3))
    scores = inferer(torch.cat([image, second], dim=1), network)
    with torch.no_grad():
        torch.testing.assert_close(scores, network(image, second).scores)
    assert torch.equal(inferer.record[0].augmented, second[0])


# The views.


@pytest.mark.parametrize("size", [[13, 9], [7, 5]])
def test_views_are_all_tensors_and_arrays(size):
    image = draw_images((13, 9), dtype=torch.float64)

    def generate(sample):
        assert sample["image"].shape == (3, *size)
        return {**mirror(sample), "weights": sample["image"][:1].float().numpy(), "augmented": sample["image"].float()}

    views = draw_views(generate, image, size, seed=0)
    assert {name: view.dtype for name, view in views.items()} == {
        "image": torch.float64,
        "augmented": torch.float64,
        "correspondence": torch.int64,
        "weights": torch.float32,
    }
    assert views["correspondence"].shape == views["weights"].shape == (1, 1, *size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_views_reach_the_loss_on_a_gpu(method, at_once):
    images = draw_images((13, 9), batch_size=2)
    inferer = inferer_of(method, at_once=at_once, fresh=False)  # fresh weights are drawn on the device
    on_gpu = inferer(images.cuda(), draw_toy_network().cuda())
    torch.testing.assert_close(on_gpu.cpu(), inferer(images, draw_toy_network()), rtol=0, atol=1e-3)


# All of an image in one cluster.


class TwoClusters(nn.Module):
    """Scores two of its clusters, half of the image each."""

    def __init__(self, clusters, second):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.clusters = clusters
        self.second = second

    def forward(self, image):
        scores = torch.zeros(len(image), self.clusters, *image.shape[2:]) + self.weight
        scores[:, 0, : image.shape[2] // 2] += 1
        scores[:, self.second, image.shape[2] // 2 :] += 1
        return scores


class OneThird(TwoClusters):
    """Clusters c, c + K/3 and c + 2 K/3 are one."""

    def merge(self, scores):
        return scores.unflatten(1, (3, -1)).sum(dim=1)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize(
    ("network", "refits"),
    [
        (TwoClusters(4, second=2), 0),  # a number that is even makes no twins
        (TwoClusters(5, second=2), 0),
        (TwoClusters(5, second=0), 2),
        (OneThird(6, second=2), 2),
        (OneThird(6, second=3), 0),
    ],
)
def test_the_network_says_what_one_cluster_is(spatial, network, refits):
    inferer = inferer_of("image alone", steps=1, max_refits=2)
    inferer(draw_images(spatial), network)
    assert inferer.record[0].refits == refits


class Dropping(nn.Module):
    """Two convolutions with a dropout of some kind between them."""

    def __init__(self, dropout):
        super().__init__()
        self.first, self.dropout, self.second = nn.Conv2d(3, 8, 3, padding=1), dropout, nn.Conv2d(8, 4, 1)

    def forward(self, image):
        return self.second(self.dropout(self.first(image)))


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_the_final_pass_is_without_dropout_of_any_kind(kind):
    network = Dropping(kind(0.5))
    inferer = PerImageInferer(steps=1, lr=0, loss_function=ImageLoss(), augmentation=dict, fresh=False, max_refits=0)
    image = torch.rand(1, 3, 12, 11)
    expected = network.second(network.first(image))  # a learning rate of 0 leaves the weights as they are
    torch.testing.assert_close(inferer(image, network), expected)


@pytest.mark.parametrize("kind", [nn.Dropout2d, nn.AlphaDropout])
def test_dropout_that_cannot_be_drawn_for_many_at_once_is_told(kind):
    inferer = PerImageInferer(steps=1, at_once=2, loss_function=ImageLoss(), augmentation=dict)
    with pytest.raises(ValueError, match=f"^at_once must be 1 for a network with {kind.__name__}, which torch"):
        inferer(torch.rand(2, 3, 12, 11), Dropping(kind(0.5)))
