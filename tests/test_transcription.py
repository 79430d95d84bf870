"""The transcription that speed is measured against computes what the published code does."""

import numpy as np
import torch
from parity import figures, inputs

from benchmarks.transcription import TranscribedFuseNet, transcribed_step
from monai_fusenet.losses import FuseNetLoss
from monai_fusenet.networks import FuseNet


def test_six_steps_of_the_transcription_leave_the_published_trace():
    weights, image, augmented = inputs()
    network = TranscribedFuseNet(features=8, dropout=0.0).double().train()
    network.load_state_dict(weights, strict=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9)
    trace = [transcribed_step(network, optimizer, image, augmented) for _ in range(6)]
    expected = figures()["trace_ce_edge_clip_clusters"]
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-7)


def test_weights_of_the_transcription_give_the_same_scores_in_the_library():
    torch.manual_seed(0)
    transcribed = TranscribedFuseNet(side=64, features=8, dropout=0.0).double().train()
    network = FuseNet(features=8, img_size=64, dropout=0.0).double().train()
    network.load_published_state_dict(transcribed.state_dict())
    image, augmented = torch.rand(2, 2, 3, 64, 64, dtype=torch.float64)
    scores, image_tokens, augmented_tokens = transcribed(image, augmented)
    output = network(image, augmented)
    torch.testing.assert_close(output.scores, scores, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.image_tokens, image_tokens, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.augmented_tokens, augmented_tokens, rtol=1e-9, atol=1e-9)
    assert torch.isfinite(FuseNetLoss()(output))
