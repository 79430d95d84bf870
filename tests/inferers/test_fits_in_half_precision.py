"""Fits and trainings of networks whose weights are in half precision."""

import pytest
import torch
from ignite.engine import Events

from monai_fusenet.engines import FuseNetTrainer
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.networks import FuseNet

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


def draw_network(spatial, dtype):
    torch.manual_seed(0)
    return FuseNet(len(spatial), features=8, patch_grid=3).to(dtype)


def draw_boxes(spatial, count=1):
    """Bright boxes on a dark ground, and where they are."""
    torch.manual_seed(1)
    inside = torch.zeros(count, 1, *spatial)
    inside[(..., *(slice(side // 4, -side // 4) for side in spatial))] = 1
    return 0.1 * torch.rand(count, 3, *spatial) + 0.8 * inside, inside.bool()


@DEVICES
@HALF
@pytest.mark.parametrize("spatial", [(33, 26), (12, 14, 9)], ids=str)
@pytest.mark.parametrize("steps", [0, 12])
def test_a_fit_tells_a_bright_box_from_its_ground(spatial, steps, dtype, device):
    images, inside = draw_boxes(spatial)
    network = draw_network(spatial, dtype).to(device)
    scores = PerImageInferer(steps=steps)(images.to(device), network).cpu()
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    if steps:
        clusters = network.merge(scores).argmax(dim=1, keepdim=True)
        in_the_box, on_the_ground = clusters[inside].mode().values, clusters[~inside].mode().values
        assert in_the_box != on_the_ground


@HALF
def test_scores_of_a_smaller_version_are_enlarged_in_float32(dtype):
    images, _ = draw_boxes((33, 26))
    scores = PerImageInferer(steps=2, resolutions=[13])(images, draw_network((33, 26), dtype))
    assert scores.shape == (1, 16, 33, 26)
    assert len(scores.unique()) > 2**13  # values that half precision has not


@DEVICES
@HALF
def test_a_training_of_images_in_the_type_of_the_network(dtype, device):
    images, _ = draw_boxes((33, 26), count=2)
    network = draw_network((33, 26), dtype).to(device)
    losses = []
    trainer = FuseNetTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[{"image": images, "augmented": 1 - images}] * 8,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.005, 0.9),
        decollate=False,
        to_kwargs={"dtype": dtype},
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.metrics["loss"]))
    trainer.run()
    assert losses[-1] < losses[0]
    assert all(parameter.isfinite().all() for parameter in network.parameters())
