"""Two processes that work together: the same steps as one with both halves of each batch, the same decisions."""

import os
import socket

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, DistributedSampler
from torch import multiprocessing, nn

from monai_fusenet.data import SeededCacheDataset
from monai_fusenet.engines import FuseNetTrainer
from monai_fusenet.handlers import EpochSeed, StopAtFewClusters
from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.networks import FuseNet
from monai_fusenet.utils import distributed as ranks

IMAGES, EPOCHS, BATCH_SIZE = 8, 3, 2  # of two images for each rank: two steps an epoch


def draw_pairs():
    """Images and their second views, (8, 2, 3, 11, 13), in float64."""
    return torch.rand((IMAGES, 2, 3, 11, 13), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def draw_network():
    torch.manual_seed(0)
    return FuseNet(features=4, patch_grid=2, dropout=0.0).double()


def optimizer_of(network):
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)


def train(network, samples, sampler=None, **options):
    return FuseNetTrainer(
        device="cpu",
        train_data_loader=DataLoader(samples, batch_size=BATCH_SIZE, sampler=sampler),
        network=network,
        optimizer=optimizer_of(network),
        decollate=False,
        **options,
    )


def what_is_trained():
    """The weights after a training, and which images each step of this rank saw."""
    pairs, seen = draw_pairs(), []
    samples = [{"image": image, "augmented": view, "index": index} for index, (image, view) in enumerate(pairs)]
    sampler = DistributedSampler(samples, num_replicas=ranks.size(), rank=ranks.rank(), shuffle=True, seed=3)
    network = draw_network()
    trainer = train(ranks.parallel(network), samples, sampler, max_epochs=EPOCHS)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.batch["index"].tolist())
    )
    trainer.run()
    return {"weights": network.state_dict(), "seen": seen}


class Scripted(nn.Module):
    """Puts out the image as scores."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, image, augmented):
        tokens = self.weight * torch.eye(4).expand(len(image), 4, 4)
        return self.weight * image, tokens, tokens


def steps_until_few(min_clusters):
    """Steps of a training in which the first rank sees 1 cluster and the second 5; the mean is 3."""
    clusters = 1 + 4 * ranks.rank()
    image = nn.functional.one_hot(torch.arange(9 * 7).reshape(9, 7) % clusters, 8).movedim(-1, 0).float()
    stop = StopAtFewClusters(min_clusters=min_clusters)
    trainer = train(
        ranks.parallel(Scripted()), [{"image": image, "augmented": image}] * 16, max_epochs=1, train_handlers=[stop]
    )
    trainer.run()
    return trainer.state.iteration, trainer.state.metrics["clusters"]


class FailsForRank:
    """A transform that fails for the first sample on the first rank, for the third on the second."""

    def __call__(self, sample):
        if sample["place"] == 2 * ranks.rank():
            raise ValueError(f"no {sample['place']}")
        return sample


def what_is_loaded():
    samples = [{"file": f"{place}.png", "place": place} for place in range(4)]
    dataset = SeededCacheDataset(samples, FailsForRank(), progress=False)
    return [dataset[index]["place"] for index in range(len(dataset))], dataset.failures


def raise_wrong():
    raise ValueError("wrong")


def what_is_raised():
    try:
        ranks.from_first(raise_wrong)
    except ValueError as error:
        return str(error)


def seed_of_epoch():
    engine = Engine(lambda *_: None)
    engine.state.epoch = 2
    EpochSeed(5, SeededCacheDataset([{}], dict))(engine)
    return torch.initial_seed()


def facts():
    """What is true on this rank; of some, in a single process, too."""
    return {
        "place": (ranks.rank(), ranks.size()),
        "share": ranks.share(range(5)),
        "gather": ranks.gather(10 * ranks.rank()),
        "from_first": ranks.from_first(lambda: (ranks.rank(), ranks.size(), ranks.gather("alone"))),
        "raised": what_is_raised(),
        "mean": ranks.mean(torch.tensor([1.0, 4.0 * ranks.rank()])).tolist(),
        "said": ranks.first_to_say("a line"),
        "seed": seed_of_epoch(),
        "bare": isinstance(ranks.bare(ranks.parallel(nn.Linear(1, 1))), nn.Linear),
    }


def work(rank, folder, port):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks.join("cpu")
    found = facts() | {"training": what_is_trained(), "loaded": what_is_loaded()}
    found |= {"few": [steps_until_few(min_clusters) for min_clusters in (2, 3)]}
    torch.save(found, folder / f"{rank}.pt")
    ranks.leave()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(work, (folder, port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_ranks_take_the_steps_of_one_process_with_both_halves(both):
    first, second = (found["training"] for found in both)
    for epoch in range(EPOCHS):
        steps = slice(2 * epoch, 2 * epoch + 2)
        assert sorted(index for half in first["seen"][steps] + second["seen"][steps] for index in half) == list(
            range(IMAGES)
        )
    network, pairs = draw_network().train(), draw_pairs()
    optimizer = optimizer_of(network)
    for halves in zip(first["seen"], second["seen"], strict=True):
        optimizer.zero_grad()
        for half in halves:  # each with the batch statistics of its own
            (FuseNetLoss()(network(pairs[half, 0], pairs[half, 1])) / 2).backward()
        optimizer.step()
    for name, value in network.named_parameters():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value.detach(), rtol=0, atol=1e-12)
    assert not torch.equal(network.encoder.conv.weight, draw_network().encoder.conv.weight)


def test_weights_have_plain_names(both):
    assert list(both[0]["training"]["weights"]) == list(draw_network().state_dict())


@pytest.mark.parametrize(("which", "steps"), [(0, 8), (1, 6)])
def test_ranks_stop_together_at_few_clusters_in_the_mean(both, which, steps):
    assert [found["few"][which] for found in both] == [(steps, 3.0)] * 2


def test_what_one_rank_cannot_load_is_left_out_by_all(both):
    assert [found["loaded"] for found in both] == [([1, 3], [("0.png", "no 0"), ("2.png", "no 2")])] * 2


@pytest.mark.parametrize(
    ("fact", "first", "second"),
    [
        ("place", (0, 2), (1, 2)),
        ("share", [0, 2, 4], [1, 3]),
        ("gather", [0, 10], [0, 10]),
        ("from_first", (0, 1, ["alone"]), (0, 1, ["alone"])),
        ("raised", "wrong", "wrong"),
        ("mean", [1.0, 2.0], [1.0, 2.0]),
        ("bare", True, True),
    ],
)
def test_what_each_rank_knows(both, fact, first, second):
    assert [found[fact] for found in both] == [first, second]


def test_a_line_is_said_once(both):
    assert sorted(found["said"] for found in both) == [False, True]


def test_ranks_drop_out_differently_and_the_first_as_a_single_process(both):
    assert both[0]["seed"] == seed_of_epoch() != both[1]["seed"]


def test_a_single_process_makes_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    ranks.join("cpu")
    assert not torch.distributed.is_initialized()
    found = facts()
    assert (found["place"], found["share"], found["gather"]) == ((0, 1), [0, 1, 2, 3, 4], [0])
    assert (found["from_first"], found["raised"], found["mean"]) == ((0, 1, ["alone"]), "wrong", [1.0, 0.0])
    assert found["said"]
    network = nn.Linear(1, 1)
    assert ranks.parallel(network) is network


def test_processes_that_do_not_find_each_other_say_so(monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", ranks.timedelta(seconds=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError, match=r"^the processes do not find each other: "):
        ranks.join("cpu")
