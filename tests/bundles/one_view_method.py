"""A method of its own, to show that nothing else knows which method runs: two convolutions and two terms."""

from typing import NamedTuple

import torch
from monai.networks.layers.factories import Conv
from torch import nn

OVERLAY = """
network_def:
  {_target_: one_view_method.ToyNetwork, dims: "@spatial_dims", channels: "@in_channels", clusters: %d}
loss_function: {_target_: one_view_method.ToyLoss}
augmentation: {_target_: monai.transforms.Identityd, keys: image}
lr: 0.1
min_clusters: 1
first_step: 1
merge_twins: true
"""


class ToyNetwork(nn.Module):
    def __init__(self, dims, channels, clusters):
        super().__init__()
        conv = Conv[Conv.CONV, dims]
        self.layers = nn.Sequential(conv(channels, 8, 3, padding=1), nn.ReLU(), conv(8, clusters, 1))

    def forward(self, image):
        return self.layers(image)


class ToyTerms(NamedTuple):
    total: torch.Tensor
    sureness: torch.Tensor
    contrast: torch.Tensor


class ToyLoss(nn.Module):
    def terms(self, output, batch):
        shares = output.scores.softmax(dim=1)
        sureness = 1 - shares.amax(dim=1).mean()
        contrast = -(shares * batch["image"].mean(dim=1, keepdim=True)).flatten(2).std(dim=2).mean()
        return ToyTerms(sureness + contrast, sureness, contrast)
