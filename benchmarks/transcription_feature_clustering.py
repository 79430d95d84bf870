"""Feature clustering as its published formulas read, without a thought for speed: the fast path is measured against it.

Maps keep their channels first, differences are compared with maps of zeros, and every step brings its cluster map to
the host, as the published code does. It serves measurements only; `tests/test_feature_clustering_parity.py` holds
it to the published figures, as the library is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NO_SCRIBBLE", "TranscribedFeatureClustering", "transcribed_step", "transcribed_terms"]

NO_SCRIBBLE = 255


class TranscribedFeatureClustering(nn.Module):
    """The published network under the authors' parameter names; (B, 3, H, W) -> scores (B, features, H, W).

    Args:
        features: width of every map, and the number of clusters.
        layers: 3x3 convolution blocks.
    """

    def __init__(self, features: int = 100, layers: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, features, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers - 1))
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(layers - 1))
        self.conv3 = nn.Conv2d(features, features, 1)
        self.bn3 = nn.BatchNorm2d(features)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised responses."""
        x = self.bn1(F.relu(self.conv1(image)))
        for conv, bn in zip(self.conv2, self.bn2, strict=True):
            x = bn(F.relu(conv(x)))
        return self.bn3(self.conv3(x))


def transcribed_terms(
    scores: Tensor, weights: tuple[float, float, float] = (1.0, 1.0, 0.5), scribble: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weighted similarity, continuity and scribble loss, and how many clusters win a pixel.

    Args:
        scores: (B, K, H, W).
        weights: of similarity, continuity and scribble.
        scribble: (B, H, W), classes and `NO_SCRIBBLE`; `None`: there is none.
    """
    clusters = scores.shape[1]
    maps = scores.permute(0, 2, 3, 1).contiguous()
    flat = maps.view(-1, clusters)
    down = maps[:, 1:] - maps[:, :-1]
    across = maps[:, :, 1:] - maps[:, :, :-1]
    continuity = F.l1_loss(down, torch.zeros_like(down)) + F.l1_loss(across, torch.zeros_like(across))
    target = flat.argmax(dim=1)
    count = len(np.unique(target.cpu().numpy()))
    similar, continuous, scribbled = weights
    if scribble is None:
        return similar * F.cross_entropy(flat, target), continuous * continuity, scores.new_zeros(()), count
    classes = torch.from_numpy(scribble.reshape(-1)).long()
    free, drawn = classes == NO_SCRIBBLE, classes != NO_SCRIBBLE
    similarity = F.cross_entropy(flat[free], target[free])
    agreement = F.cross_entropy(flat[drawn], classes[drawn])
    return similar * similarity, continuous * continuity, scribbled * agreement, count


def transcribed_step(
    network: TranscribedFeatureClustering,
    optimizer: torch.optim.Optimizer,
    image: Tensor,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    scribble: np.ndarray | None = None,
) -> tuple[float, float, float, int]:
    """One step of the published loop; returns the weighted terms and the number of clusters before the update."""
    optimizer.zero_grad()
    similarity, continuity, agreement, count = transcribed_terms(network(image), weights, scribble)
    (similarity + continuity + agreement).backward()
    optimizer.step()
    return similarity.item(), continuity.item(), agreement.item(), count
