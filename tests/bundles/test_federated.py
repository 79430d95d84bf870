"""The bundle under MONAI's client of a federation: weights come and go, round after round."""

import copy
import math
import re
import shutil

import pytest
import torch
from bundle_tools import BUNDLE, CONFIGS, SMALL_TRAINING, call, copy_with_masks, draw_folder
from federation_tools import OPTIONS, average, make_site, update, weights_of
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

from monai_fusenet.bundle import FuseNetWorkflow
from monai_fusenet.handlers import ResumableCheckpoint, StopAtFewClusters

WORKFLOWS = ("training", "distillation")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of two sites, of 3 and of 6 images, without any mask."""
    base = tmp_path_factory.mktemp("sites")
    return draw_folder(base / "first", 3, masks=False), draw_folder(base / "second", 6, masks=False)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_each_round_begins_with_the_weights_that_come(workflow, folders, tmp_path):
    sites = [make_site(workflow, folder, tmp_path / folder.name) for folder in folders]
    begun = {}
    for number, site in enumerate(sites):

        def note(engine, number=number):
            begun[number] = copy.deepcopy(engine.network.state_dict())

        site.trainer.add_event_handler(Events.EPOCH_STARTED, note)
    weights = weights_of(sites[0])
    assert_same_weights(weights, weights_of(sites[1]))  # one seed
    for _ in range(3):
        updates = [update(site, weights) for site in sites]
        for number in range(2):
            for name, value in begun[number].items():
                assert torch.equal(value, weights[name].to(value.dtype)), name
        assert any(not torch.equal(updates[0][name], updates[1][name]) for name in weights)
        weights = average(updates, (3, 6))
    assert [site.trainer.state.iteration for site in sites] == [3 * 2, 3 * 3]
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_federation_of_one_site_is_a_training(folders, tmp_path):
    alone = {**SMALL_TRAINING, "dataset_dir": folders[0], "output_dir": tmp_path / "alone"}
    assert call("training", **{**alone, "max_epochs": 3}) == 0
    site = make_site("training", folders[0], tmp_path / "site")
    weights = weights_of(site)
    for _ in range(3):
        weights = update(site, weights)
    assert_same_weights(weights, read(tmp_path / "alone" / "model.pt"))


def test_one_round_of_one_site_is_a_round_of_a_distillation(folders, tmp_path):
    options = {**OPTIONS["distillation"], "round_steps": 60, "rounds": 1}
    assert call("distillation", dataset_dir=folders[1], output_dir=tmp_path / "out", **options) == 0
    masks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "teacher").rglob("*_mask.png")}
    site = make_site("distillation", folders[1], tmp_path / "out", local_epochs=math.ceil(60 / 3), round_steps=60)
    weights = update(site, weights_of(site))
    assert_same_weights(weights, read(tmp_path / "out" / "model" / "models" / "model.pt"))
    assert len(masks) == 6
    assert all(path.stat().st_mtime_ns == before for path, before in masks.items())  # they are kept


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_masks_change_no_weight(workflow, folders, tmp_path):
    drawn = draw_folder(tmp_path / "drawn", 3)
    copy_with_masks(drawn, tmp_path / "inverted", "inverted")
    sent = []
    for folder in (folders[0], drawn, tmp_path / "inverted"):
        site = make_site(workflow, folder, tmp_path / "out" / folder.name)
        sent.append(update(site, weights_of(site)))
    assert_same_weights(sent[0], sent[1])
    assert_same_weights(sent[0], sent[2])


def test_differences_are_what_a_round_adds(folders, tmp_path):
    first, second = (
        make_site("training", folders[0], tmp_path / str(difference), difference=difference)
        for difference in (False, True)
    )
    weights = weights_of(first)
    after, added = update(first, weights), update(second, weights)
    for name in weights:
        assert torch.equal(added[name], after[name] - weights[name]), name


def test_an_earlier_training_of_the_site_is_left_alone(folders, tmp_path):
    alone = {**SMALL_TRAINING, "dataset_dir": folders[0], "output_dir": tmp_path / "out"}
    assert call("training", **alone) == 0
    before = (tmp_path / "out" / "checkpoint.pt").read_bytes()
    fresh = make_site("training", folders[0], tmp_path / "fresh")
    weights = weights_of(fresh)
    again = make_site("training", folders[0], tmp_path / "out")
    assert_same_weights(update(again, weights), update(fresh, weights))
    assert (tmp_path / "out" / "checkpoint.pt").read_bytes() == before


def test_few_clusters_end_no_round(folders, tmp_path):
    site = make_site("training", folders[1], tmp_path, min_clusters=1000, first_step=1)
    weights = weights_of(site)
    for number in (1, 2):
        weights = update(site, weights)
        assert site.trainer.state.iteration == 3 * number


def test_what_the_overlay_switches_off():
    config = ConfigParser.load_config_file(str(CONFIGS / "train.json"))
    handlers = [handler["_target_"].rsplit(".", 1)[-1] for handler in config["train"]["handlers"]]
    overlay = ConfigParser.load_config_file(str(CONFIGS / "federated_train.json"))
    places = [int(match[1]) for name in overlay if (match := re.match(r"train#handlers#(\d+)#_disabled_", name))]
    assert [handlers[place] for place in places] == [StopAtFewClusters.__name__, ResumableCheckpoint.__name__]


def test_without_the_overlay_one_line_names_the_one_of_a_federation(folders, tmp_path):
    algo = MonaiAlgo(
        str(BUNDLE),
        config_evaluate_filename=None,
        train_kwargs={**OPTIONS["training"], "dataset_dir": str(folders[0]), "output_dir": str(tmp_path)},
    )
    with pytest.raises(RuntimeError) as caught:
        algo.initialize()
    assert str(caught.value.__cause__) == (
        "train.json alone trains at one site, with a checkpoint and an end of its own; add the overlay: --config_file "
        f"\"['{CONFIGS}/train.json','{CONFIGS}/federated_train.json']\""
    )


def test_a_site_without_images_raises_what_the_library_says(tmp_path):
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "federated_train")]
    options = {**OPTIONS["training"], "dataset_dir": str(tmp_path / "nothing"), "output_dir": str(tmp_path)}
    workflow = FuseNetWorkflow(files, workflow_type="train", meta_file=None, logging_file=False, **options)
    algo = MonaiAlgo(str(BUNDLE), config_evaluate_filename=None, train_workflow=workflow)
    with pytest.raises(ValueError, match=f"^the dataset folder does not exist: {tmp_path / 'nothing'}$"):
        algo.initialize()


def test_accepted_masks_of_a_site_teach(folders, tmp_path):
    accepted = draw_folder(tmp_path / "drawn", 6) / "masks"
    shutil.move(accepted, tmp_path / "accepted")
    for number in (1, 2, 3, 5):
        (tmp_path / "accepted" / f"scan{number}.png").unlink()
    label_free = make_site("distillation", folders[1], tmp_path / "free")
    weights = weights_of(label_free)
    site = make_site("distillation", folders[1], tmp_path / "out", accepted_dir=str(tmp_path / "accepted"))
    names = [sample["name"] for sample in site.trainer.data_loader.dataset.data]
    assert set(names) == {f"scan{number}" for number in range(6)}
    assert names.count("scan0") == names.count("scan4") > names.count("scan1") == 1
    changed, free = update(site, weights), update(label_free, weights)
    assert changed.keys() == weights.keys()
    assert any(not torch.equal(changed[name], free[name]) for name in changed)


def test_weights_of_another_network_are_refused(folders, tmp_path):
    site = make_site("training", folders[0], tmp_path)
    with pytest.raises(RuntimeError, match="No global weights converted!"):
        site.train(ExchangeObject(weights={"another": torch.zeros(3)}))
