"""The edge loss stands beside a supervised loss in MONAI's own trainer, around MONAI's own network."""

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from torch import nn

from monai_fusenet.losses import EdgeRefinementLoss, SelfLabelingLoss, SpatialContinuityLoss


class DiceAndEdges(nn.Module):
    def __init__(self):
        super().__init__()
        self.dice = DiceLoss(softmax=True, to_onehot_y=True)
        self.edges = EdgeRefinementLoss(factor=4)

    def forward(self, prediction, target):
        return self.dice(prediction, target) + 0.1 * self.edges(prediction, target)


def draw_samples(spatial, count=4):
    """Bright boxes on a dark, noisy ground, and where they are."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        label = torch.zeros(1, *spatial)
        label[(0, *(slice(2 + index, side - 4) for side in spatial))] = 1
        noise = 0.2 * torch.randn(1, *spatial, generator=generator)
        samples.append({"image": 0.2 + 0.6 * label + noise, "label": label})
    return samples


@pytest.mark.parametrize("spatial", [(24, 16), (16, 12, 8)])
@pytest.mark.parametrize(
    "loss_function",
    [DiceAndEdges(), EdgeRefinementLoss(factor=4), SelfLabelingLoss(), SpatialContinuityLoss("probabilities")],
)
def test_supervised_trainer_lowers_the_loss(spatial, loss_function):
    torch.manual_seed(0)
    network = UNet(len(spatial), in_channels=1, out_channels=2, channels=(4, 8), strides=(2,))
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=6,
        train_data_loader=DataLoader(Dataset(draw_samples(spatial)), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        loss_function=loss_function,
        decollate=False,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"]))
    trainer.run()
    assert len(losses) == 12
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])
