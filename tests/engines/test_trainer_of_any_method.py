"""The trainer runs a method that is not FuseNet: its own network, views and loss."""

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from toy_method import ImageLoss, ToyLoss, ToyNetwork, ToyOutput, draw_toy_network, mirror

from monai_fusenet.engines import FuseNetTrainer, prepare_pair, prepare_views

SIZES = [(9, 7), (5, 4, 6)]
CPU = torch.device("cpu")


def draw_images(spatial, count=3, batch_size=2):
    return torch.rand(count, batch_size, 3, *spatial, generator=torch.Generator().manual_seed(1))


def draw_batches(spatial, **options):
    """Batches as a loader makes them: stacked samples, beside what is no tensor."""
    batches = []
    for images in draw_images(spatial, **options):
        samples = [mirror({"image": image}) for image in images]
        batch = {key: torch.stack([one[key] for one in samples]) for key in ("image", "augmented", "correspondence")}
        batches.append({**batch, "file": [one["file"] for one in samples]})
    return batches


def trainer_of(network, batches, loss_function, **options):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    options = {"max_epochs": 1, "decollate": False, "loss_function": loss_function, **options}
    return FuseNetTrainer(CPU, train_data_loader=batches, network=network, optimizer=optimizer, **options)


@pytest.mark.parametrize("spatial", SIZES)
def test_the_loss_sees_the_whole_batch(spatial):
    network, batches = draw_toy_network(len(spatial)), draw_batches(spatial)
    trainer = trainer_of(network, batches, ToyLoss())
    trainer.run()

    by_hand = draw_toy_network(len(spatial))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        output = by_hand(batch["image"], batch["augmented"])
        terms = ToyLoss().terms(output, batch)
        terms.total.backward()
        optimizer.step()

    for name, value in network.state_dict().items():
        assert torch.equal(value, by_hand.state_dict()[name]), name
    metrics = trainer.state.metrics
    assert list(metrics) == ["loss", "certainty", "agreement", "clusters"]
    expected = [term.item() for term in terms]
    assert list(metrics.values())[:3] == pytest.approx(expected, rel=1e-6)
    assert metrics["clusters"] == sum(len(one.argmax(dim=0).unique()) for one in output.scores) / 2
    assert set(trainer.state.output) == {"image", "augmented", "pred", "loss", "clusters"}


@pytest.mark.parametrize("spatial", SIZES)
def test_without_a_second_view(spatial):
    network = draw_toy_network(len(spatial))
    batches = [{"image": images} for images in draw_images(spatial)]
    trainer = trainer_of(network, batches, ImageLoss())
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.metrics["loss"]))
    trainer.run()

    with torch.no_grad():
        scores = draw_toy_network(len(spatial))(batches[0]["image"])
    first = 0.5 * (scores[:, 0] - batches[0]["image"].mean(dim=1)).square().mean()
    assert losses[0] == pytest.approx(first.item())
    assert losses[2] < losses[0]
    assert list(trainer.state.metrics) == ["loss", "darkness", "clusters"]
    assert set(trainer.state.output) == {"image", "pred", "loss", "clusters"}


def test_decollated_items_without_a_second_view():
    batches = [{"image": images} for images in draw_images((9, 7))]
    trainer = trainer_of(draw_toy_network(), batches, ImageLoss(), decollate=True)
    trainer.run()
    assert [set(item) for item in trainer.state.output] == [{"image", "pred", "loss", "clusters"}] * 2


@pytest.mark.parametrize("prepare", [prepare_pair, lambda *args, **options: prepare_views(*args, **options)])
def test_views_come_as_a_pair_or_by_name(prepare):
    class PairLoss(ToyLoss):
        def terms(self, output, batch):
            assert torch.equal(batch["image"], batch["augmented"].flip(-1))
            return super().terms(output, {"correspondence": batches[0]["correspondence"]})

    batches = draw_batches((9, 7), count=1)
    trainer = trainer_of(draw_toy_network(), batches, PairLoss(), prepare_batch=prepare)
    trainer.run()
    assert trainer.state.iteration == 1


def test_views_are_the_tensors_of_a_batch():
    (batch,) = draw_batches((9, 7), count=1)
    batch["image"] = MetaTensor(batch["image"])
    views = prepare_views(batch, CPU, dtype=torch.float64)
    assert list(views) == ["image", "augmented", "correspondence"]
    assert all(type(view) is torch.Tensor for view in views.values())
    assert [view.dtype for view in views.values()] == [torch.float64, torch.float64, torch.int64]
    assert torch.equal(views["correspondence"], batch["correspondence"])


def test_mixed_precision_keeps_the_type_of_the_output():
    class Watching(ToyLoss):
        def terms(self, output, batch):
            assert type(output) is ToyOutput
            assert output.scores.dtype == output.augmented_scores.dtype == torch.float32
            assert batch["correspondence"].dtype == torch.int64
            return super().terms(output, batch)

    dtypes = []
    network = ToyNetwork()
    network.register_forward_hook(lambda module, inputs, output: dtypes.append(output.scores.dtype))
    trainer_of(network, draw_batches((9, 7)), Watching(), amp=True).run()
    assert dtypes == [torch.bfloat16] * 3
