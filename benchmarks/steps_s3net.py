"""One published-size step of S3-Net (256 x 256, 64 features), ours and as transcribed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.transcription_s3net import TranscribedS3Net, transcribed_step
from monai_fusenet.losses import S3NetLoss, grey_values
from monai_fusenet.networks import S3Net
from monai_fusenet.utils.scores import count_clusters

__all__ = ["build"]


def build(side: int = 256) -> dict[str, Callable[[], object]]:
    """What makes one step each: `ours` and `transcription`, from the same weights, on the same image."""
    torch.manual_seed(0)
    image, colours = torch.rand(1, 3, side, side), torch.randint(0, 255, (100, 3))
    transcribed = TranscribedS3Net(side, side).train()
    network = S3Net(img_size=side, offsets="free", second_view=False).train()
    loss = S3NetLoss(transform_mode="published", spatial_mode="published", greys=grey_values(colours).tolist())
    network.load_published_state_dict(transcribed.state_dict())
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.2, momentum=0.9) for one in (network, transcribed)]

    def ours() -> tuple[float, ...]:
        optimizers[0].zero_grad()
        output = network(image, image)
        terms = loss.terms(output)
        terms.total.backward()
        optimizers[0].step()
        return (*(term.item() for term in terms[1:]), terms.total.item(), int(count_clusters(output.scores.detach())))

    return {"ours": ours, "transcription": lambda: transcribed_step(transcribed, optimizers[1], image, colours)}
