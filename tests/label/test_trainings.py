"""The trainings and their weights, called directly: no server."""

import logging
import shutil

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from label_tools import AFFINE, SMALL, draw_studies, draw_volume, picture
from PIL import Image

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
    message = "weights do not fit volume.nii.gz: they are for images of another number of axes or channels; run the"
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


def test_a_bad_accepted_mask_is_named_and_the_others_teach(folder, tmp_path, preset, caplog):
    accept(folder, "a")
    truncated = accept(folder, "b")
    truncated.write_bytes(truncated.read_bytes()[:60])
    accept(folder, "c", np.ones((7, 9)))
    caplog.set_level(logging.WARNING)
    training = accepted_masks_training(tmp_path, preset)
    told = training({"steps": 1, "device": "cpu"}, datastore_of(folder))
    assert (told["images"], told["left_out"]) == (1, 2)
    assert training.stats() == told
    assert "left out the accepted mask of b: cannot read" in caplog.text
    assert "left out the accepted mask of c: image and mask must have the same size" in caplog.text


def test_masks_as_slicer_saves_them_teach(folder, tmp_path, preset):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    flat, volume = (7 * picture(name)[1].astype(np.uint16) for name in "ab")
    itk.imwrite(itk.image_from_array(flat), str(labels / "a.nrrd"))
    nib.save(nib.Nifti1Image(volume.T[..., None], np.diag([-1, -1, 1, 1])), labels / "b.nii.gz")
    told = accepted_masks_training(tmp_path, preset)({"steps": 1, "device": "cpu"}, datastore_of(folder))
    assert (told["images"], told["left_out"]) == (2, 0)
    for name, mask in (("a", flat), ("b", volume)):
        taught = np.asarray(Image.open(tmp_path / "work" / "masks" / f"{name}_mask.png"))
        assert np.array_equal(taught > 0, mask > 0)


def test_masks_teach_where_they_lie(folder, tmp_path, preset):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    mask = draw_volume()[1].astype(np.uint8)
    turned = AFFINE @ np.diag([-1.0, 1, 1, 1])
    turned[:3, 3] = AFFINE[:3, 3] + (len(mask) - 1) * AFFINE[:3, 0]
    nib.save(nib.Nifti1Image(mask[::-1], turned), labels / "volume.nii.gz")
    told = accepted_masks_training(tmp_path, preset)({"steps": 1, "device": "cpu"}, datastore_of(folder))
    assert told["images"] == 1
    taught = nib.load(tmp_path / "work" / "masks" / "volume_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(taught.dataobj), mask > 0)


def test_a_mask_that_lies_elsewhere_teaches_nothing(folder, tmp_path, preset):
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True)
    moved = AFFINE.copy()
    moved[:3, 3] += 1000
    nib.save(nib.Nifti1Image(draw_volume()[1].astype(np.uint8), moved), labels / "volume.nii.gz")
    training = accepted_masks_training(tmp_path, preset)
    with pytest.raises(ValueError, match="the first, of volume: the mask lies outside the image"):
        training({"device": "cpu"}, datastore_of(folder))


def test_no_usable_mask_is_an_error_that_names_an_image(folder, tmp_path, preset):
    training = accepted_masks_training(tmp_path, preset)
    with pytest.raises(ValueError, match="no mask is accepted yet"):
        training({"device": "cpu"}, datastore_of(folder))
    accept(folder, "a", np.ones((7, 9)))
    with pytest.raises(ValueError, match="none of the 1 accepted masks can be used; the first, of a: image and mask"):
        training({"device": "cpu"}, datastore_of(folder))


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
