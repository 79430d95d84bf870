"""The trainings and their weights, called directly: no server."""

import logging
import shutil

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from label_tools import AFFINE, SMALL, dice, draw_studies, draw_volume, picture
from PIL import Image
from skimage.measure import label

from monai_fusenet.data import load_image
from monai_fusenet.distillation import steps_of_round
from monai_fusenet.distillation.schooling import Schooling
from monai_fusenet.handlers.checkpoint import load_tensors
from monai_fusenet.label.cache import ClusterCache
from monai_fusenet.label.clustering import Clusterer, bundle_configs, read_configs
from monai_fusenet.label.feedforward import FeedForwardModel


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_studies(tmp_path_factory.mktemp("images"))


@pytest.fixture
def preset(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


@pytest.fixture
def weights_2d(tmp_path, preset):
    """The `model.pt` of a training on pictures."""
    network = read_configs(bundle_configs("inference", preset, 2, "adapt")).get_parsed_content("network_def")
    torch.save({"network": network.state_dict()}, tmp_path / "fusenet_clusters.pt")
    return tmp_path / "fusenet_clusters.pt"


def test_weights_of_pictures_do_not_fit_a_volume(images, tmp_path, preset, weights_2d):
    clusterer = Clusterer(ClusterCache(tmp_path / "cache"), preset, weights_2d)
    message = "weights do not fit volume.nii.gz: they are of another method, or for images of another number of "
    with pytest.raises(ValueError, match=message):
        clusterer.clusters(images / "volume.nii.gz", adapt=True)
    assert np.any(clusterer.clusters(images / "a.png", adapt=True).clusters)


def test_damaged_weights_are_told(images, tmp_path, preset, weights_2d):
    weights_2d.write_bytes(b"no weights")
    clusterer = Clusterer(ClusterCache(tmp_path / "cache"), preset, weights_2d)
    with pytest.raises(ValueError, match=r"^checkpoint .* holds no weights that torch can read"):
        clusterer.clusters(images / "a.png", adapt=True)


@pytest.fixture
def folder(images, tmp_path):
    """A copy of the images, to which labels may be added: four pictures, a volume and a damaged file."""
    return shutil.copytree(images, tmp_path / "studies")


def datastore_of(folder):
    from monailabel.datastore.local import LocalDatastore

    return LocalDatastore(
        str(folder), extensions=["*.png", "*.jpg", "*.JPEG", "*.BMP", "*.nii.gz", "*.nrrd"], auto_reload=False
    )


def accept(folder, name, mask=None):
    """Lays the mask of a picture where the accepted ones are; the drawn one unless another is given."""
    path = folder / "labels" / "final" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture(name)[1] if mask is None else mask).astype(np.uint8)).save(path)
    return path


def accepted_masks_training(tmp_path, preset):
    from monai_fusenet.label.train import AcceptedMasksTraining

    return AcceptedMasksTraining(FeedForwardModel(tmp_path / "model" / "own.pt", preset), tmp_path / "work")


def train(training, folder, **options):
    return training({"steps": 1, "device": "cpu", **options}, datastore_of(folder))


def test_a_bad_accepted_mask_is_named_and_the_others_teach(folder, tmp_path, preset, caplog):
    accept(folder, "a")
    truncated = accept(folder, "b")
    truncated.write_bytes(truncated.read_bytes()[:60])
    accept(folder, "c", np.ones((7, 9)))
    caplog.set_level(logging.WARNING)
    training = accepted_masks_training(tmp_path, preset)
    told = train(training, folder)
    assert (told["images"], told["left_out"]) == (1, 2)
    assert training.stats() == told
    assert "left out the accepted mask of b: cannot read" in caplog.text
    assert "left out the accepted mask of c: image and mask must have the same size" in caplog.text


@pytest.fixture
def taught(monkeypatch):
    """What a training is given: `items`, `accepted` and `spatial_dims`; the training itself does nothing."""
    given = {}

    def note(self, items, accepted, spatial_dims, *_):
        given.update(items=items, accepted=accepted, spatial_dims=spatial_dims)
        return {"images": len(accepted.paths)}

    monkeypatch.setattr(FeedForwardModel, "train", note)
    return given


def test_masks_as_slicer_saves_them_teach(folder, tmp_path, preset, taught):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    flat, volume = (7 * picture(name)[1].astype(np.uint16) for name in "ab")
    itk.imwrite(itk.image_from_array(flat), str(labels / "a.nrrd"))
    nib.save(nib.Nifti1Image(volume.T[..., None], np.diag([-1, -1, 1, 1])), labels / "b.nii.gz")
    told = train(accepted_masks_training(tmp_path, preset), folder)
    assert (told["images"], told["left_out"]) == (2, 0)
    for name, file, mask in (("a", "a.png", flat), ("b", "b.jpg", volume)):
        np.testing.assert_array_equal(taught["accepted"].load(name, load_image(folder / file))[0], mask > 0)


def test_masks_teach_where_they_lie(folder, tmp_path, preset, taught):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    mask = draw_volume()[1].astype(np.uint8)
    turned = AFFINE @ np.diag([-1.0, 1, 1, 1])
    turned[:3, 3] = AFFINE[:3, 3] + (len(mask) - 1) * AFFINE[:3, 0]
    nib.save(nib.Nifti1Image(mask[::-1], turned), labels / "volume.nii.gz")
    told = train(accepted_masks_training(tmp_path, preset), folder)
    assert (told["images"], taught["spatial_dims"]) == (1, 3)
    brought = taught["accepted"].load("volume", load_image(folder / "volume.nii.gz"))
    np.testing.assert_array_equal(brought[0], mask)


def test_a_mask_that_lies_elsewhere_teaches_nothing(folder, tmp_path, preset):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    moved = AFFINE.copy()
    moved[:3, 3] += 1000
    nib.save(nib.Nifti1Image(draw_volume()[1].astype(np.uint8), moved), labels / "volume.nii.gz")
    training = accepted_masks_training(tmp_path, preset)
    with pytest.raises(ValueError, match="the first, of volume: the mask lies outside the image"):
        train(training, folder)


def test_no_usable_mask_is_an_error_that_names_an_image(folder, tmp_path, preset):
    training = accepted_masks_training(tmp_path, preset)
    with pytest.raises(ValueError, match="no mask is accepted yet"):
        train(training, folder)
    accept(folder, "a", np.ones((7, 9)))
    with pytest.raises(ValueError, match="none of the 1 accepted masks can be used; the first, of a: image and mask"):
        train(training, folder)
    accept(folder, "a", np.zeros_like(picture("a")[1]))
    with pytest.raises(ValueError, match="the accepted mask is empty: one at least must show the object"):
        train(training, folder)


def test_an_empty_mask_beside_others_teaches(folder, tmp_path, preset, taught):
    accept(folder, "a")
    accept(folder, "b", np.zeros_like(picture("b")[1]))
    told = train(accepted_masks_training(tmp_path, preset), folder)
    assert (told["images"], told["left_out"]) == (2, 0)
    assert not taught["accepted"].load("b", load_image(folder / "b.jpg")).any()


def test_all_images_take_part_but_of_those_without_a_mask_at_most_a_number(
    folder, tmp_path, preset, taught, monkeypatch, caplog
):
    accept(folder, "c")
    training = accepted_masks_training(tmp_path, preset)
    train(training, folder)
    assert [item["name"] for item in taught["items"]] == ["c", "a", "b", "d", "damaged", "volume"]
    assert set(taught["accepted"].paths) == {"c"}
    monkeypatch.setattr("monai_fusenet.label.train.MOST_OTHERS", 3)
    caplog.set_level(logging.INFO)
    train(training, folder)
    first = [item["name"] for item in taught["items"]]
    assert "3 of 5 images without an accepted mask take part, drawn by seed" in caplog.text
    assert (first[0], len(set(first))) == ("c", 4)
    train(training, folder)
    assert [item["name"] for item in taught["items"]] == first


def test_an_image_whose_mask_is_bad_still_takes_part(folder, tmp_path, preset, taught):
    accept(folder, "a")
    accept(folder, "b", np.ones((7, 9)))
    train(accepted_masks_training(tmp_path, preset), folder)
    assert {item["name"] for item in taught["items"]} == {"a", "b", "c", "d", "damaged", "volume"}
    assert set(taught["accepted"].paths) == {"a"}


def two_objects(name):
    """The drawn picture of a name beside its mirror image, and the mask."""
    pixels, mask = picture(name)
    return np.hstack([pixels, pixels[:, ::-1]]), np.hstack([mask, mask[:, ::-1]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of pictures of two objects, the training of it, and what that told; three masks are accepted."""
    tmp_path = tmp_path_factory.mktemp("trained")
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in "abcd":
        Image.fromarray(two_objects(name)[0]).save(folder / f"{name}.png")
    for name in "abc":
        accept(folder, name, two_objects(name)[1])
    (tmp_path / "small.yaml").write_text(SMALL)
    training = accepted_masks_training(tmp_path, str(tmp_path / "small.yaml"))
    return folder, training, train(training, folder, steps=120)


def test_a_training_tells_what_to_expect(trained):
    _, training, told = trained
    assert set(told) == {"images", "left_out", "steps", "agreement", "expected_dice", "spread", "seconds"}
    assert (told["images"], told["left_out"], told["steps"]) == (3, 0, 120)
    assert 0.5 < told["expected_dice"] <= 1
    assert 0 <= told["spread"] < 0.5
    assert training.stats() == told


def test_as_many_objects_are_found_as_accepted_masks_show_after_a_restart_too(trained):
    folder, training, _ = trained
    assert "objects: 1" in SMALL  # what the preset says
    for model in (training.model, FeedForwardModel(training.path, training.model.preset)):
        mask = np.asarray(model.predict(folder / "d.png").mask)[0]
        assert mask.shape == two_objects("d")[1].shape
        assert set(np.unique(mask)) == {0, 1}
        assert dice(mask > 0, two_objects("d")[1]) > 0.7
        assert label(mask).max() == 2


def test_label_maps_of_classes_teach_a_network_that_answers_with_them(folder, tmp_path):
    from monai_fusenet.label.infer import FeedForwardTask

    overlay = tmp_path / "classes.yaml"
    overlay.write_text(SMALL.replace("out_channels: 1", "out_channels: 3"))
    for name in "abc":
        mask = picture(name)[1].astype(int)
        mask[: round(np.argwhere(mask)[:, 0].mean())] *= 5
        accept(folder, name, mask)
    training = accepted_masks_training(tmp_path, str(overlay))
    train(training, folder, steps=150)
    model = FeedForwardModel(training.path, str(overlay))  # as after a restart
    assert model.predict(folder / "d.BMP").classes == (1, 5)
    file, told = FeedForwardTask(model, tmp_path / "results")({"image": str(folder / "d.BMP"), "device": "cpu"})
    labels = np.asarray(Image.open(file))
    assert told["label_names"] == {"class_1": 1, "class_5": 5}
    assert set(np.unique(labels)) == {0, 1, 5}
    assert dice(labels > 0, picture("d")[1]) > 0.5
    accept(folder, "c").unlink()
    accept(folder, "a")
    accept(folder, "b")
    message = r"knows the classes \(1, 5\), and the accepted masks show \(1,\); train with pretrained false to start"
    with pytest.raises(ValueError, match=message):
        train(training, folder)


def test_a_training_goes_on_from_its_weights_unless_it_is_told_not_to(trained, tmp_path):
    folder, first, _ = trained
    shutil.copytree(first.path.parent, tmp_path / "model")
    training = accepted_masks_training(tmp_path, first.model.preset)
    start = load_tensors(first.path)["network"]
    changes = {}
    for pretrained in (True, False):
        shutil.copy(first.path, training.path)
        train(training, folder, pretrained=pretrained)
        end = load_tensors(training.path)["network"]
        changes[pretrained] = sum(float((end[name].float() - start[name].float()).norm()) for name in start)
    assert changes[True] < changes[False] / 2


def test_networks_that_leave_masks_out_start_anew_as_older_weights_may_know_these(trained, tmp_path, monkeypatch):
    folder, first, _ = trained
    starts, teach = {}, Schooling.teach

    def note(self, network, name, *rest):
        starts[name] = network.state_dict()["final_conv.weight"].clone()
        teach(self, network, name, *rest)

    monkeypatch.setattr(Schooling, "teach", note)
    training = accepted_masks_training(tmp_path, first.model.preset)
    shutil.copytree(first.path.parent, training.path.parent)
    train(training, folder)
    assert set(starts) == {"without_1", "without_2", "without_3", "1", "2"}
    older = load_tensors(first.path)["network"]["final_conv.weight"]
    assert torch.equal(starts["1"], older)
    for name in ("without_1", "without_2", "without_3"):
        assert torch.equal(starts[name], starts["without_1"])
        assert not torch.equal(starts[name], older)


@pytest.mark.parametrize(
    ("steps", "rounds", "accepted", "expected"),
    [
        (300, 3, 5, 57),  # 3 x 57 + 3 x 42 = 297
        (300, 3, 100, 57),  # three folds, not a hundred
        (300, 3, 1, 80),  # 3 x 80 + 60
        (300, 1, 2, 120),  # 120 + 2 x 90
        (1, 3, 5, 1),
    ],
)
def test_steps_are_divided_among_rounds_and_networks_that_leave_masks_out(steps, rounds, accepted, expected):
    assert steps_of_round(steps, rounds, accepted) == expected


def test_one_accepted_mask_tells_nothing_to_expect(folder, tmp_path, preset):
    accept(folder, "a")
    training = accepted_masks_training(tmp_path, preset)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "expectation.json").write_text('{"expected_dice": 0.9, "spread": 0.1}')  # an earlier one
    told = train(training, folder)
    assert set(told) == {"images", "left_out", "steps", "agreement", "seconds"}
    assert (told["images"], told["left_out"]) == (1, 0)


def test_an_accepted_mask_of_an_image_that_is_too_small_counts_as_left_out(trained, tmp_path, caplog):
    folder = shutil.copytree(trained[0], tmp_path / "studies")
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(folder / "tiny.png")
    accept(folder, "tiny", np.eye(4))
    caplog.set_level(logging.WARNING)
    told = train(accepted_masks_training(tmp_path, trained[1].model.preset), folder)
    assert (told["images"], told["left_out"]) == (3, 1)
    assert "left out tiny.png: " in caplog.text


def test_weights_that_do_not_fit_are_told_and_how_to_start_anew(folder, tmp_path, preset, trained):
    training = accepted_masks_training(tmp_path, preset)
    accept(folder, "a")
    training.path.parent.mkdir()
    training.path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"holds no weights that torch can read; train with pretrained false to"):
        train(training, folder)
    torch.save({"spatial_dims": 2, "network": {}}, training.path)
    with pytest.raises(ValueError, match=r"was not written by this version: run the training anew; train with pretr"):
        train(training, folder)
    state = load_tensors(trained[1].path)
    torch.save(state | {"spatial_dims": 3}, training.path)
    with pytest.raises(ValueError, match=r"is that of another preset: .* does not fit this network: .*; train with"):
        train(training, folder)
    wide = tmp_path / "wide.yaml"
    wide.write_text(SMALL.replace("[8, ", "[16, "))
    with pytest.raises(ValueError, match=r"^the trained network is that of another preset: "):
        FeedForwardModel(trained[1].path, str(wide)).predict(folder / "a.png")


def test_a_network_of_pictures_takes_no_volume(folder, tmp_path, preset, trained):
    with pytest.raises(ValueError, match=r"is for images of 2 axes, and this one has 3$"):
        trained[1].model.predict(folder / "volume.nii.gz")
    training = accepted_masks_training(tmp_path, preset)
    shutil.copytree(trained[1].path.parent, training.path.parent)
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    nib.save(nib.Nifti1Image(draw_volume()[1].astype(np.uint8), AFFINE), labels / "volume.nii.gz")
    with pytest.raises(ValueError, match=r"2 axes, and this one has 3; train with pretrained false to start anew$"):
        train(training, folder)


def self_supervised_training(weights, tmp_path, preset):
    from monai_fusenet.label.train import SelfSupervisedTraining

    return SelfSupervisedTraining(weights, tmp_path / "work", preset)


def test_self_supervised_training_counts_what_it_leaves_out(folder, tmp_path, preset):
    training = self_supervised_training(tmp_path / "model" / "own.pt", tmp_path, preset)
    told = training({"max_epochs": 1, "device": "cpu"}, datastore_of(folder))
    assert (told["images"], told["left_out"]) == (4, 2)  # the volume and the damaged file


def test_a_training_that_cannot_go_on_from_its_weights_says_how_to_start_anew(folder, tmp_path, preset, weights_2d):
    for path in folder.glob("[a-d].*"):
        path.unlink()
    training = self_supervised_training(weights_2d, tmp_path, preset)
    with pytest.raises(ValueError, match=r"does not fit this network: .*; train with pretrained false"):
        training({"max_epochs": 1, "device": "cpu"}, datastore_of(folder))
