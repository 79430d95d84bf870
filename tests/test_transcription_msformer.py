"""The transcription of MS-Former that speed is measured against computes what the published code does."""

import numpy as np
import torch
from msformer_parity import figures, inputs

from benchmarks.transcription_msformer import TranscribedMSFormer, transcribed_step
from monai_fusenet.networks import MSFormer


def test_six_steps_of_the_transcription_leave_the_published_trace():
    weights, image = inputs()
    network = TranscribedMSFormer(features=12).double().train()
    network.load_state_dict(weights, strict=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    trace = np.array([transcribed_step(network, optimizer, image) for _ in range(6)])
    expected = figures()["trace_ce_inter_intra_total_clusters"]
    np.testing.assert_array_equal(trace[:, 4], expected[:, 4])
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-7 * np.abs(expected[:, :4]).max())


def test_weights_of_the_transcription_give_the_same_output_in_the_library():
    transcribed = TranscribedMSFormer(side=33, features=8).double().train()
    network = MSFormer(features=8, img_size=33).double().train()
    network.load_published_state_dict(transcribed.state_dict())
    torch.manual_seed(0)
    image = torch.rand(2, 3, 33, 33, dtype=torch.float64)
    for actual, expected in zip(network(image, image), transcribed(image), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
