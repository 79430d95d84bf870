"""The transcription of S3-Net that speed is measured against computes what the published code does."""

import numpy as np
import pytest
import torch
from s3net_parity import figures, inputs

from benchmarks.transcription_s3net import (
    TranscribedS3Net,
    transcribed_deform_conv,
    transcribed_step,
    transcribed_terms,
)


@pytest.mark.parametrize("name", ["square", "oblong"])
def test_six_steps_of_the_transcription_leave_the_published_trace(name):
    case = inputs()[0][name]
    network = TranscribedS3Net(*case.image.shape[2:], features=12).double().train()
    network.load_state_dict(case.weights, strict=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    trace = [transcribed_step(network, optimizer, case.image, case.colours) for _ in range(6)]
    np.testing.assert_allclose(trace, figures()[f"{name}.trace_ce_affine_spatial_total_clusters"], rtol=0, atol=1e-7)


def test_first_terms_of_the_transcription():
    case = inputs()[0]["oblong"]
    network = TranscribedS3Net(48, 72, features=12).double().train()
    network.load_state_dict(case.weights, strict=False)
    *terms, _ = transcribed_terms(network(case.image), case.colours)
    expected = figures()["oblong.terms_total_ce_affine_spatial"]
    np.testing.assert_allclose([sum(terms).item(), *(term.item() for term in terms)], expected, rtol=1e-9)


def test_deformable_convolution_of_the_transcription():
    image, weight, offset, modulation = inputs()[1]
    result = transcribed_deform_conv(image, weight, offset, modulation)
    np.testing.assert_allclose(result, figures()["deform.y"], rtol=0, atol=1e-9)
