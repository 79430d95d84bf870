"""One step of MS-Former at the published size, in the library's form and as its formulas are written down."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from benchmarks.transcription_msformer import TranscribedMSFormer, transcribed_step
from monai_fusenet.losses import MSFormerLoss
from monai_fusenet.networks import MSFormer
from monai_fusenet.utils.scores import count_clusters

__all__ = ["build"]

SIDE = 257
LR, MOMENTUM = 0.1, 0.9


def build() -> dict[str, Callable[[], object]]:
    """What does one step of each kind; its network comes into being with the first, and no other."""
    return {"ours": _at_first_call(_ours), "transcription": _at_first_call(_transcription)}


def _at_first_call(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    made = cache(make)
    return lambda: made()()


def _image() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(1, 3, SIDE, SIDE)


def _ours() -> Callable[[], object]:
    image, network, loss_function = _image(), MSFormer(img_size=SIDE).train(), MSFormerLoss()
    optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM)

    def step() -> list[float]:
        optimizer.zero_grad()
        output = network(image, image)
        terms = loss_function.terms(output)
        terms.total.backward()
        optimizer.step()
        return [*(term.item() for term in terms), count_clusters(output.scores).item()]

    return step


def _transcription() -> Callable[[], object]:
    image, network = _image(), TranscribedMSFormer(SIDE).train()
    optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM)
    return lambda: transcribed_step(network, optimizer, image)
