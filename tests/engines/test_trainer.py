import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.engines import IterationEvents, SupervisedTrainer
from monai.inferers import Inferer
from monai.transforms import Compose, Lambdad, ScaleIntensityd

from monai_fusenet.engines import FuseNetTrainer, prepare_pair
from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.networks import FuseNet
from monai_fusenet.transforms import AugmentPaird

SIZES = [(9, 7), (5, 4, 6)]
CPU = torch.device("cpu")


def draw_network(spatial_dims=2, **options):
    torch.manual_seed(0)
    return FuseNet(spatial_dims, features=4, patch_grid=2, **options)


def draw_batches(spatial, count=3, batch_size=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shape = (count, 2, batch_size, 3, *spatial)
    views = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    return [{"image": image, "augmented": augmented} for image, augmented in views]


def trainer_of(network, batches, lr=0.05, **options):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    options = {"max_epochs": 1, "decollate": False, **options}
    return FuseNetTrainer(device=CPU, train_data_loader=batches, network=network, optimizer=optimizer, **options)


@pytest.mark.parametrize("spatial", SIZES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_takes_the_steps_of_a_hand_written_loop(spatial, batch_size):
    batches = draw_batches(spatial, batch_size=batch_size, dtype=torch.float64)
    network = draw_network(len(spatial), dropout=0.0).double()
    trainer_of(network, batches).run()

    by_hand = draw_network(len(spatial), dropout=0.0).double().train()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        FuseNetLoss()(by_hand(batch["image"], batch["augmented"])).backward()
        optimizer.step()

    for name, value in network.state_dict().items():
        assert torch.equal(value, by_hand.state_dict()[name]), name
    assert not torch.equal(network.encoder.conv.weight, draw_network(len(spatial)).encoder.conv.weight.double())


def test_fires_the_iteration_events_in_order():
    trainer = trainer_of(draw_network(), draw_batches((9, 7), count=1))
    fired = []
    for event in (
        IterationEvents.MODEL_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.FORWARD_COMPLETED,
        Events.ITERATION_STARTED,
        Events.ITERATION_COMPLETED,
    ):
        trainer.add_event_handler(event, lambda _engine, event: fired.append(event), event)
    trainer.run()
    assert fired == [
        Events.ITERATION_STARTED,
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
        Events.ITERATION_COMPLETED,
    ]


def test_what_is_known_at_each_event():
    network = draw_network()
    trainer = trainer_of(network, draw_batches((9, 7), count=1))
    start = network.encoder.conv.weight.detach().clone()

    @trainer.on(IterationEvents.FORWARD_COMPLETED)
    def after_forward(engine):
        assert set(engine.state.output) == {"image", "augmented", "pred"}

    @trainer.on(IterationEvents.LOSS_COMPLETED)
    def after_loss(engine):
        assert "loss" in engine.state.output
        assert network.encoder.conv.weight.grad is None

    @trainer.on(IterationEvents.BACKWARD_COMPLETED)
    def after_backward(engine):
        assert network.encoder.conv.weight.grad.abs().sum() > 0
        assert torch.equal(network.encoder.conv.weight, start)

    @trainer.on(IterationEvents.MODEL_COMPLETED)
    def after_step(engine):
        assert not torch.equal(network.encoder.conv.weight, start)
        assert engine.state.metrics["clusters"] >= 1

    trainer.run()


@pytest.mark.parametrize("spatial", SIZES)
def test_output_and_metrics(spatial):
    batch = draw_batches(spatial, count=1)[0]
    trainer = trainer_of(draw_network(len(spatial), dropout=0.0), [batch])
    trainer.run()

    expected = draw_network(len(spatial), dropout=0.0)(batch["image"], batch["augmented"])
    terms = FuseNetLoss().terms(expected)
    clusters = [len(scores.argmax(dim=0).unique()) for scores in expected.scores]
    output, metrics = trainer.state.output, trainer.state.metrics
    assert set(output) == {"image", "augmented", "pred", "loss", "clusters"}
    assert torch.equal(output["image"], batch["image"])
    assert torch.equal(output["augmented"], batch["augmented"])
    torch.testing.assert_close(output["pred"], expected.scores.detach())
    torch.testing.assert_close(output["loss"], terms.total.detach())
    assert output["clusters"].tolist() == clusters
    assert not output["pred"].requires_grad
    assert not output["loss"].requires_grad
    assert metrics == pytest.approx(
        {
            "loss": terms.total.item(),
            "self_labeling": terms.self_labeling.item(),
            "cross_modal": terms.cross_modal.item(),
            "edge": terms.edge.item(),
            "clusters": sum(clusters) / 2,
        },
        rel=1e-5,
    )
    assert all(type(value) is float for value in metrics.values())


def test_decollated_items():
    seen = []
    postprocessing = Compose([Lambdad("pred", lambda scores: scores.argmax(dim=0, keepdim=True))])
    trainer = trainer_of(draw_network(), draw_batches((9, 7)), decollate=True, postprocessing=postprocessing)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output))
    trainer.run()
    assert [len(items) for items in seen] == [2, 2, 2]
    item = seen[0][1]
    assert set(item) == {"image", "augmented", "pred", "loss", "clusters"}
    assert item["image"].shape == item["augmented"].shape == (3, 9, 7)
    assert item["pred"].shape == (1, 9, 7)
    assert int(item["clusters"]) == len(item["pred"].unique())


def test_decollation_changes_nothing_else():
    weights = []
    for decollate in (True, False):
        network = draw_network(dropout=0.0)
        trainer_of(network, draw_batches((9, 7)), decollate=decollate).run()
        weights.append(network.encoder.conv.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize("decollate", [True, False])
@pytest.mark.parametrize("spatial", SIZES)
def test_works_through_a_cached_dataset_and_a_loader(spatial, decollate):
    images = [MetaTensor(batch["image"][0], meta={"filename_or_obj": "a"}) for batch in draw_batches(spatial, count=5)]
    pipeline = Compose([ScaleIntensityd("image"), AugmentPaird()]).set_random_state(seed=0)
    dataset = CacheDataset([{"image": image} for image in images], pipeline, progress=False)
    losses = []
    trainer = trainer_of(
        draw_network(len(spatial), dropout=0.0),
        DataLoader(dataset, batch_size=2, shuffle=True),
        max_epochs=4,
        decollate=decollate,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.metrics["self_labeling"])
    )
    trainer.run()
    assert trainer.state.iteration == 12
    assert losses[-1] < losses[0]


def test_views_of_a_batch_become_plain_tensors():
    batch = {"image": MetaTensor(torch.rand(1, 3, 4, 5)), "augmented": MetaTensor(torch.rand(1, 3, 4, 5))}
    for view, key in zip(prepare_pair(batch, CPU, dtype=torch.float64), batch, strict=True):
        assert type(view) is torch.Tensor
        assert view.dtype == torch.float64
        torch.testing.assert_close(view.float(), batch[key].as_tensor())


def test_the_network_trains_whatever_mode_it_came_in():
    network = draw_network().eval()
    trainer_of(network, draw_batches((9, 7), count=1)).run()
    assert network.training


def test_the_network_is_called_by_the_inferer():
    calls = []

    class Recording(Inferer):
        def __call__(self, inputs, network, *args, **kwargs):
            calls.append((tuple(inputs.shape), len(args)))
            return network(inputs, *args, **kwargs)

    trainer_of(draw_network(), draw_batches((9, 7)), inferer=Recording()).run()
    assert calls == [((2, 3, 9, 7), 1)] * 3


def test_mixed_precision_keeps_scores_and_losses_in_full():
    network = draw_network()
    batches = draw_batches((9, 7), count=5)
    trainer = trainer_of(network, batches, amp=True)
    trainer.run()
    assert trainer.state.output["pred"].dtype == torch.float32
    assert trainer.state.output["loss"].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_mixed_precision_takes_nearly_the_same_step():
    losses = []
    for amp in (False, True):
        trainer = trainer_of(draw_network(dropout=0.0), draw_batches((9, 7)), lr=0.005, amp=amp)
        trainer.run()
        losses.append(trainer.state.metrics["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def test_running_again_goes_on():
    network = draw_network()
    trainer = trainer_of(network, draw_batches((9, 7)), max_epochs=1)
    trainer.run()
    trainer.state.max_epochs = 2
    trainer.run()
    assert (trainer.state.epoch, trainer.state.iteration) == (2, 6)


def test_it_is_what_asks_for_a_supervised_trainer_expects():
    network = draw_network()
    trainer = trainer_of(network, draw_batches((9, 7)))
    assert isinstance(trainer, SupervisedTrainer)
    assert trainer.network is network


def test_metrics_are_brought_every_few_steps():
    trainer = trainer_of(draw_network(), draw_batches((9, 7), count=5), look_every=2)
    losses, seen = [], []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output["loss"].item()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(trainer.state.metrics.get("loss")))
    trainer.run()
    assert seen == [None, losses[1], losses[1], losses[3], losses[3]]


def test_looking_every_no_steps():
    message = "look_every must be a whole number of at least 1, got 0"
    with pytest.raises(ValueError, match=message):
        trainer_of(draw_network(), [], look_every=0)
