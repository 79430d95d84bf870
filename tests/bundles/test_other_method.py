"""Another method, a file and an overlay, runs through everything, and nothing in the package knows of it."""

import csv
from pathlib import Path

import numpy as np
import one_view_method
import pytest
import torch
from bundle_tools import call, draw_folder, read_summary
from one_view_method import OVERLAY, ToyLoss, ToyNetwork
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_distillation_workflow import SMALL_STUDENT

from monai_fusenet.inferers import PerImageInferer

SMALL = {"device": "cpu", "working_size": [24, 24], "steps": 3}


@pytest.fixture(scope="module", params=[4, 5], ids=["even", "odd"])
def overlay(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.yaml"
    path.write_text(OVERLAY % request.param)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("toy") / "data")


def run(workflow, overlay, data, output, **options):
    return call(workflow, overlay, dataset_dir=data, output_dir=output, **{**SMALL, **options})


def assert_masks(folder):
    for index in range(3):
        clusters, mask = (np.asarray(Image.open(folder / f"scan{index}_{kind}.png")) for kind in ("clusters", "mask"))
        assert clusters.shape == mask.shape == (41 + 6 * index, 53 - 4 * index)
        assert 1 <= clusters.max() <= 5


def test_inference(overlay, data, tmp_path):
    assert run("inference", overlay, data, tmp_path / "out") == 0
    assert_masks(tmp_path / "out")
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok"] * 3


def test_evaluation_of_two_seeds(overlay, data, tmp_path):
    assert run("evaluation", overlay, data, tmp_path / "out", seeds=[0, 1]) == 0
    for seed in (0, 1):
        assert_masks(tmp_path / "out" / f"seed_{seed}")
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert {row["seed"] for row in csv.DictReader(file) if row["method"] == "ToyNetwork"} == {"0", "1"}


def test_training_publishes_the_terms_of_the_loss_and_its_weights_serve_inference(overlay, data, tmp_path):
    options = {name: value for name, value in SMALL.items() if name != "steps"}
    options |= {"max_epochs": 1, "batch_size": 2, "min_clusters": 0}
    folder = tmp_path / "training"
    assert call("training", overlay, dataset_dir=data, output_dir=folder, **options) == 0
    events = EventAccumulator(str(folder)).Reload()
    assert {"loss/epoch", "sureness/epoch", "contrast/epoch", "clusters/epoch"} <= set(events.Tags()["scalars"])
    assert not any("cross_modal" in tag for tag in events.Tags()["scalars"])
    weights = folder / "model.pt"
    adapted = {"checkpoint": weights, "inferer#fresh": False, "resolutions": None}
    assert run("inference", overlay, data, tmp_path / "adapted", **adapted) == 0
    assert_masks(tmp_path / "adapted")
    assert run("inference", overlay, data, tmp_path / "plain", checkpoint=weights, steps=0) == 0
    assert_masks(tmp_path / "plain")


def test_distillation(overlay, data, tmp_path):
    options = {name: value for name, value in SMALL_STUDENT.items() if "network_def" not in name}
    options |= {"rounds": 1, "teacher_seeds": [0]}
    assert call("distillation", overlay, dataset_dir=data, output_dir=tmp_path / "out", **options) == 0
    assert_masks(tmp_path / "out" / "masks")
    assert_masks(tmp_path / "out" / "teacher" / "seed_0")


@pytest.mark.parametrize("spatial", [(21, 17), (9, 11, 10)])
@pytest.mark.parametrize("clusters", [4, 5])
def test_per_image_inferer_fits_two_at_once_as_it_fits_one(spatial, clusters):
    torch.manual_seed(0)
    network = ToyNetwork(len(spatial), 1, clusters)
    images = torch.rand(2, 1, *spatial)
    options = {"steps": 4, "lr": 0.1, "min_clusters": 0, "first_step": 1, "max_refits": 0}
    options |= {"loss_function": ToyLoss(), "augmentation": dict}
    together, alone = (PerImageInferer(at_once=count, **options) for count in (2, 1))
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=1e-3, atol=1e-4)
    assert [record.steps for record in together.record] == [record.steps for record in alone.record] == [4, 4]
    assert together.record[0].augmented is None


def test_its_first_step_may_be_the_last():
    image = torch.rand(1, 1, 16, 16)
    options = {"steps": 9, "min_clusters": 4, "loss_function": ToyLoss(), "augmentation": dict, "max_refits": 0}
    inferer = PerImageInferer(first_step=1, **options)
    inferer(image, ToyNetwork(2, 1, 4))
    assert inferer.record[0].steps == 1  # four clusters at most are few from the first step on


def test_the_method_is_short():
    source = Path(one_view_method.__file__).read_text(encoding="utf-8").replace(OVERLAY, "")
    assert len(source.splitlines()) < 40
