"""The geometric second view of S3-Net passes through loader, trainer, ranks and inferer."""

import os
import socket

import pytest
import torch
from monai.data import DataLoader
from torch import multiprocessing

from monai_fusenet.data import SeededCacheDataset, collate_views
from monai_fusenet.engines import FuseNetTrainer
from monai_fusenet.inferers import PerImageInferer
from monai_fusenet.losses import S3NetLoss
from monai_fusenet.networks import S3Net
from monai_fusenet.transforms import RandQuarterTurnViewd
from monai_fusenet.utils import distributed as ranks

SIZES = [(13, 9), (5, 7, 6)]


def draw_images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def network_for(spatial, **options):
    torch.manual_seed(0)
    return S3Net(len(spatial), features=4, **options).double()


def inferer_of(**options):
    options = {"steps": 3, "min_clusters": 0, "max_refits": 0, "lr": 0.05, **options}
    return PerImageInferer(loss_function=S3NetLoss(), augmentation=RandQuarterTurnViewd(), **options)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("resolutions", [None, [0.6, 1.0]])
def test_images_fitted_together_get_what_they_get_alone(spatial, resolutions):
    images, network = torch.stack(draw_images(spatial, spatial, spatial)), network_for(spatial)
    alone, together = (inferer_of(at_once=count, resolutions=resolutions) for count in (1, 2))
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=0, atol=1e-6)


def test_published_form_fitted_together():
    images, network = torch.stack(draw_images((13, 9), (13, 9))), network_for((13, 9), img_size=(13, 9), offsets="free")
    loss = S3NetLoss(transform_mode="published", spatial_mode="published")
    alone, together = (inferer_of(at_once=count) for count in (1, 2))
    alone.loss_function = together.loss_function = loss
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=0, atol=1e-6)


def test_free_offsets_refuse_other_sizes():
    network = network_for((13, 9), img_size=(13, 9), offsets="free")
    with pytest.raises(ValueError, match=r"^this network takes images of img_size = \[13, 9\] only, got \[7, 5\]$"):
        inferer_of(resolutions=[0.55, 1.0])(draw_images((13, 9))[0].unsqueeze(0), network)


def test_a_network_serves_images_of_other_sizes():
    network = network_for((13, 9))
    for image in draw_images((13, 9), (8, 11)):
        assert inferer_of(steps=0)(image.unsqueeze(0), network).shape == (1, 4, *image.shape[1:])


def train(network, sizes, **options):
    samples = [{"image": image} for image in draw_images(*sizes)]
    dataset = SeededCacheDataset(samples, dict, RandQuarterTurnViewd(), progress=False)
    trainer = FuseNetTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=DataLoader(dataset, batch_size=2, collate_fn=collate_views, **options),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9),
        loss_function=S3NetLoss(),
        decollate=False,
    )
    trainer.run()
    return trainer


@pytest.mark.parametrize("sizes", [[(13, 9), (8, 11)] * 2, [(5, 7, 6), (8, 4, 6)]])
def test_training_on_images_of_several_sizes(sizes):
    network = network_for(sizes[0])
    trainer = train(network, sizes)
    assert list(trainer.state.metrics) == [
        *("loss", "self_labeling", "transform_consistency", "spatial_continuity", "clusters")
    ]
    assert trainer.state.metrics["transform_consistency"] > 0
    assert trainer.state.batch["correspondence"].dtype == torch.int64


def work(rank, folder, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks.join("cpu")
    network = network_for((13, 9))
    train(ranks.parallel(network), [(13, 9)] * 4)
    torch.save(network.state_dict(), folder / f"{rank}.pt")
    ranks.leave()


def test_two_ranks_with_the_same_images_learn_what_one_process_does(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(work, (tmp_path, port), nprocs=2)
    alone = network_for((13, 9))
    train(alone, [(13, 9)] * 4)
    for rank in (0, 1):
        weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.named_parameters():
            torch.testing.assert_close(weights[name], value.detach(), rtol=0, atol=1e-9)
