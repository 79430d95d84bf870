"""The transcription of MS-Former that speed is measured against computes what the published code does."""

import numpy as np
import torch
from msformer_parity import figures, inputs

from benchmarks.transcription_msformer import TranscribedMSFormer, transcribed_step


def test_six_steps_of_the_transcription_leave_the_published_trace():
    weights, image = inputs()
    network = TranscribedMSFormer(features=12).double().train()
    network.load_state_dict(weights, strict=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    trace = np.array([transcribed_step(network, optimizer, image) for _ in range(6)])
    expected = figures()["trace_ce_inter_intra_total_clusters"]
    np.testing.assert_array_equal(trace[:, 4], expected[:, 4])
    np.testing.assert_allclose(trace, expected, rtol=0, atol=1e-7 * np.abs(expected[:, :4]).max())
