"""Overlays of methods beside those of presets, in any order and in every workflow."""

from itertools import product

import numpy as np
import pytest
import torch
from bundle_tools import call, draw_folder, read_summary
from monai.bundle import ConfigParser
from PIL import Image
from test_distillation_workflow import SMALL_STUDENT

from monai_fusenet.bundle import load_method
from monai_fusenet.shipped import config_files, shipped

OVERLAYS = {path.stem: ConfigParser.load_config_file(path) for path in sorted(shipped("configs").glob("*.yaml"))}
METHODS = [name for name, overlay in OVERLAYS.items() if "network_def" in overlay and not name.endswith("_paper")]
OTHERS = [name for name in OVERLAYS if name not in METHODS and not name.endswith("paper")]
WORKFLOWS = ("inference", "evaluate", "train", "distill")


def merged(workflow, *overlays):
    parser = ConfigParser()
    parser.read_config(config_files(workflow, *overlays))
    return parser.get()


def test_these_are_the_methods():
    assert METHODS == ["feature_clustering", "msformer", "s3net"]


@pytest.mark.parametrize(("method", "other"), product(METHODS, OTHERS))
def test_overlays_compose_in_any_order(method, other):
    for workflow in ("inference", "evaluate") if other in ("adapt", "feedforward") else WORKFLOWS:
        assert merged(workflow, method, other) == merged(workflow, other, method)


@pytest.mark.parametrize(("method", "other"), product(METHODS, ["skin", "volume", "slices"]))
def test_a_method_for_a_program_of_ones_own(method, other):
    channels, spatial = (3, (33, 40)) if other == "skin" else (1, (18, 16, 10))
    options = {"features": 4, "steps": 2, "resolutions": None, "in_channels": channels, "min_clusters": 0}
    network, inferer, postprocessing = load_method(other, method, **options)
    image = torch.rand(1, channels, *spatial, generator=torch.Generator().manual_seed(0))
    scores = inferer(image, network)
    assert scores.shape == (1, 4, *spatial)
    assert inferer.record[0].steps == 2
    sample = postprocessing({"image": image[0], "original": image[0], "pred": scores[0]})
    assert sample["clusters"].shape == sample["pred"].shape == (1, *spatial)
    assert set(sample["pred"].unique().tolist()) <= {0, 1}
    again = load_method(method, other, **options)
    torch.testing.assert_close(again.inferer(image, again.network), scores)


def test_a_misspelt_option_of_a_method():
    with pytest.raises(ValueError, match=r"^unknown option stps; did you mean steps\?$"):
        load_method("skin", stps=3)


@pytest.mark.parametrize("method", ["paper", "msformer_paper", "s3net_paper", "feature_clustering_paper"])
def test_published_forms_say_which_overlays_they_replace(method):
    """They prepare images as published, and leave nothing of how a preset for other images does."""
    for other, option in (("volume", "working_spacing"), ("slices", "working_spacing"), ("ct", "window")):
        message = f"{option} has no effect: another overlay replaces the part of .* that uses it; leave one of the two"
        with pytest.raises(ValueError, match=f"^{message} overlays out$"):
            load_method(other, method)


@pytest.mark.parametrize(
    ("overlays", "message"),
    [
        (("msformer_paper", "slices"), "img_size must be a whole number of at least 1, or 2 of them, one for each "),
        (("s3net_paper", "volume"), "free offsets are for 2-D only, got spatial_dims = 3"),
    ],
)
def test_published_forms_that_a_preset_makes_impossible(overlays, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_method(*overlays)


@pytest.mark.parametrize("method", METHODS)
def test_a_second_view_of_another_sequence_is_of_fusenet_alone(method):
    with pytest.raises(ValueError, match=r"^second_view_channels must be 0: this method has no second view of another"):
        load_method(method, "second_view")


SMALL = {"device": "cpu", "working_size": [24, 24], "features": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("methods") / "data")


def run(workflow, method, data, output, **options):
    overlay = shipped("configs") / f"{method}.yaml"
    return call(workflow, overlay, dataset_dir=data, output_dir=output, **{**SMALL, **options})


def assert_masks(folder):
    for index in range(3):
        mask = np.asarray(Image.open(folder / f"scan{index}_mask.png"))
        assert mask.shape == (41 + 6 * index, 53 - 4 * index)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_makes_and_scores_masks(method, data, tmp_path):
    assert run("evaluation", method, data, tmp_path / "out", steps=2) == 0
    assert_masks(tmp_path / "out")
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok"] * 3


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_trained_and_its_weights_serve_other_sizes(method, data, tmp_path):
    options = {"max_epochs": 1, "batch_size": 2, "min_clusters": 0}
    assert run("training", method, data, tmp_path / "training", **options) == 0
    trained = {"checkpoint": tmp_path / "training" / "model.pt", "resolutions": None, "working_size": [32, 24]}
    assert run("inference", method, data, tmp_path / "plain", steps=0, **trained) == 0
    assert_masks(tmp_path / "plain")
    adapted = {"inferer#fresh": False, "steps": 1}
    assert run("inference", method, data, tmp_path / "adapted", **adapted, **trained) == 0
    assert_masks(tmp_path / "adapted")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_teaches(method, data, tmp_path):
    options = {name: value for name, value in SMALL_STUDENT.items() if "network_def" not in name}
    options |= {"rounds": 1, "teacher_seeds": [0], "features": 6, "round_steps": 60}
    overlay = shipped("configs") / f"{method}.yaml"
    assert call("distillation", overlay, dataset_dir=data, output_dir=tmp_path / "out", **options) == 0
    assert_masks(tmp_path / "out" / "masks")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spatial", [(21, 17), (9, 11, 10)])
def test_two_at_once_are_fitted_as_each_alone(method, spatial):
    options = {"features": 4, "steps": 2, "resolutions": None, "in_channels": 2, "min_clusters": 0}
    options |= {"spatial_dims": len(spatial), "patch_grid": 2, "working_size": list(spatial)}
    images = torch.rand(2, 2, *spatial, generator=torch.Generator().manual_seed(0))
    network, alone, _ = load_method(method, **options)
    together = load_method(method, **options).inferer
    together.at_once = 2
    torch.testing.assert_close(together(images, network), alone(images, network), rtol=1e-3, atol=1e-3)


def test_a_trained_network_for_a_program_of_ones_own(tmp_path):
    with pytest.raises(ValueError, match=r"^feed-forward and adaptation need trained weights"):
        load_method("s3net", "feedforward", features=4)
    trained = load_method("s3net", features=4).network
    torch.save({"network": trained.state_dict()}, tmp_path / "model.pt")
    network = load_method("s3net", "feedforward", features=4, checkpoint=str(tmp_path / "model.pt")).network
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in network.state_dict().items())
