"""One published-size step of feature clustering (257 x 257, two blocks), ours and as transcribed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.transcription_feature_clustering import TranscribedFeatureClustering, transcribed_step
from monai_fusenet.losses import FeatureClusteringLoss
from monai_fusenet.networks import FeatureClusteringNet
from monai_fusenet.utils.scores import count_clusters

__all__ = ["build"]


def build(side: int = 257) -> dict[str, Callable[[], object]]:
    """What makes one step each: `ours` and `transcription`, from the same weights, on the same image."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, side, side)
    transcribed = TranscribedFeatureClustering().train()
    network, loss = FeatureClusteringNet().train(), FeatureClusteringLoss()
    network.load_published_state_dict(transcribed.state_dict())
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9) for one in (network, transcribed)]

    def ours() -> tuple[float, ...]:
        optimizers[0].zero_grad()
        output = network(image, image)
        terms = loss.terms(output)
        terms.total.backward()
        optimizers[0].step()
        return (*(term.item() for term in terms[1:]), int(count_clusters(output.scores.detach())))

    return {"ours": ours, "transcription": lambda: transcribed_step(transcribed, optimizers[1], image)}
