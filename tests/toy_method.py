"""A small method beside FuseNet: an odd number of clusters, a mirrored view, and a loss of both."""

from typing import NamedTuple

import torch
from torch import nn


class ToyOutput(NamedTuple):
    scores: torch.Tensor
    augmented_scores: torch.Tensor


class ToyNetwork(nn.Module):
    """Scores of one image, or of both views of a pair; no twins."""

    def __init__(self, spatial_dims=2, clusters=5, in_channels=3):
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.first = convolution(in_channels, 6, 3, padding=1)
        self.second = convolution(6, clusters, 1)

    def describe(self, image):
        return self.second(self.first(image).relu())

    def forward(self, image, augmented=None):
        scores = self.describe(image)
        return scores if augmented is None else ToyOutput(scores, self.describe(augmented))


def draw_toy_network(*args, **options):
    torch.manual_seed(0)
    return ToyNetwork(*args, **options)


def mirror(sample):
    """Adds the image mirrored along its last axis, and where each of its pixels came from."""
    image = sample["image"]
    pixels = torch.arange(image[0].numel()).view(1, *image.shape[1:])
    return {**sample, "augmented": image.flip(-1), "correspondence": pixels.flip(-1), "file": "a.png"}


class ToyTerms(NamedTuple):
    total: torch.Tensor
    certainty: torch.Tensor
    agreement: torch.Tensor


class ToyLoss(nn.Module):
    """Pixels should be certain, and score alike in both views; a mean over the images of a batch."""

    def terms(self, output, batch):
        certainty = 2 * (output.scores.logsumexp(dim=1) - output.scores.amax(dim=1)).mean()
        where = batch["correspondence"].flatten(1).unsqueeze(1).expand(-1, output.scores.shape[1], -1)
        moved = output.scores.flatten(2).gather(2, where).view_as(output.scores)
        agreement = 0.1 * (moved - output.augmented_scores).square().mean()
        return ToyTerms(certainty + agreement, certainty, agreement)


class ImageTerms(NamedTuple):
    total: torch.Tensor
    darkness: torch.Tensor


class ImageLoss(nn.Module):
    """The first cluster should score as high as the image is bright: sees the image, and no second view."""

    def terms(self, output, batch):
        assert output._fields == ("scores",)
        darkness = (output.scores[:, 0] - batch["image"].mean(dim=1)).square().mean()
        return ImageTerms(0.5 * darkness, darkness)
