"""Overlays of methods beside those of presets, in any order and in every workflow."""

from itertools import product

import pytest
import torch
from monai.bundle import ConfigParser

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
    network, inferer = load_method(other, method, **options)
    image = torch.rand(1, channels, *spatial, generator=torch.Generator().manual_seed(0))
    scores = inferer(image, network)
    assert scores.shape == (1, 4, *spatial)
    assert inferer.record[0].steps == 2
    again, same = load_method(method, other, **options)
    torch.testing.assert_close(same(image, again), scores)


def test_a_misspelt_option_of_a_method():
    with pytest.raises(ValueError, match=r"^unknown option stps; did you mean steps\?$"):
        load_method("skin", stps=3)


@pytest.mark.parametrize("method", METHODS)
def test_a_second_view_of_another_sequence_is_of_fusenet_alone(method):
    with pytest.raises(ValueError, match=r"^second_view_channels must be 0: this method has no second view of another"):
        load_method(method, "second_view")
