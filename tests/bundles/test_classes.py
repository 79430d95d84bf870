"""Accepted masks of several classes: what the distillation and the student's bundle write, in 2-D and 3-D."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from bundle_tools import call, read_summary
from dicom_tools import write_ct_series
from monai.bundle import ConfigParser, verify_net_in_out
from PIL import Image
from test_distillation_workflow import SMALL_STUDENT, assert_same_weights, weights

from monai_fusenet.data import load_labels

OPTIONS = {**SMALL_STUDENT, "teacher_seeds": [], "rounds": 1, "round_steps": 60, "learning_rate": 0.01}
OPTIONS |= {"field": "$None"}  # a disk on even ground looks like the circle of a dermatoscope
SIZES = [(41, 53), (47, 49), (53, 45), (39, 50)]
FILES = {"config": "inference", "meta": "metadata"}
AFFINE = np.array([[0, -2.5, 0, 10], [1.5, 0, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1.0]])


def draw(shape, seed):
    """A dark disk in a grey one on bright ground, uint8, and its label map: 5 inside, 1 around it."""
    rng = np.random.default_rng(seed)
    distance = np.sqrt(sum((axis - 0.48) ** 2 for axis in np.ix_(*(np.linspace(0, 1, side) for side in shape))))
    inner, outer = (0.15, 0.32) if len(shape) == 2 else (0.22, 0.4)
    labels = np.select([distance < inner, distance < outer], [5, 1])
    image = np.select([labels == 5, labels == 1], [40, 120], 210) + rng.normal(0, 6, shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels.astype(np.uint8)


def save(path, values):
    if values.ndim == 2:
        Image.fromarray(values).save(path.with_suffix(".png"))
    else:
        nib.save(nib.Nifti1Image(values, AFFINE), path.with_suffix(".nii.gz"))


def draw_data(base, sizes, accepted=3):
    """Images, and label maps of the first of them."""
    for folder in ("images", "accepted"):
        (base / folder).mkdir(parents=True)
    for seed, size in enumerate(sizes):
        image, labels = draw(size, seed)
        save(base / "images" / f"scan{seed}", image)
        if seed < accepted:
            save(base / "accepted" / f"scan{seed}", labels)
    return base


def distil(base, *overlays, **options):
    given = {"dataset_dir": base / "images", "accepted_dir": base / "accepted", "output_dir": base / "out"}
    return call("distillation", *overlays, **given, **OPTIONS | options)


def masks_in(folder, suffix=".png"):
    return {path.name: load_labels(path).numpy()[0] for path in sorted(folder.glob(f"*_mask{suffix}"))}


def dice(mask, labels, value):
    return 2 * ((mask == value) & (labels == value)).sum() / ((mask == value).sum() + (labels == value).sum())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    base = draw_data(tmp_path_factory.mktemp("classes"), SIZES)
    assert distil(base) == 0
    return base


def test_masks_are_label_maps_of_the_accepted_classes(done):
    for seed, size in enumerate(SIZES):
        mask = np.asarray(Image.open(done / "out" / "masks" / f"scan{seed}_mask.png"))
        assert (mask.dtype, mask.shape) == (np.uint8, size)
        assert set(np.unique(mask)) == {0, 1, 5}
        assert min(dice(mask, draw(size, seed)[1], value) for value in (1, 5)) > 0.7
        clusters = np.asarray(Image.open(done / "out" / "masks" / f"scan{seed}_clusters.png"))
        np.testing.assert_array_equal(clusters, np.array([1, 2, 0, 0, 0, 3])[mask])
        row = read_summary(done / "out" / "masks")[seed]
        assert (row["status"], row["clusters"], row["message"]) == ("ok", "3", "")
        assert float(row["mask_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-4)


def test_the_bundle_of_the_student_knows_its_classes(done, tmp_path):
    model = done / "out" / "model"
    written = (model / "configs" / "inference.json").read_text("utf-8")
    assert "accepted" not in written
    config = ConfigParser(json.loads(written))
    assert config["classes"] == [1, 5]
    assert config.get_parsed_content("network_def").final_conv.out_channels == 3
    metadata = json.loads((model / "configs" / "metadata.json").read_text("utf-8"))["network_data_format"]
    assert metadata["outputs"]["pred"]["num_channels"] == 3
    assert metadata["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "class 1", "2": "class 5"}
    files = {f"{kind}_file": str(model / "configs" / f"{name}.json") for kind, name in FILES.items()}
    verify_net_in_out("network_def", **files, device="cpu")
    base = draw_data(tmp_path / "other", [(60, 37)], accepted=0)
    options = {"dataset_dir": base / "images", "output_dir": tmp_path / "out", "device": "cpu"}
    config_file = model / "configs" / "inference.json"
    assert call("inference", config=config_file, **options) == 0
    mask = np.asarray(Image.open(tmp_path / "out" / "scan0_mask.png"))
    assert mask.shape == (60, 37)
    assert set(np.unique(mask)) == {0, 1, 5}
    # Of an image without an accepted mask, it says what the distillation wrote.
    options = {**options, "dataset_dir": done / "images", "output_dir": tmp_path / "same"}
    assert call("inference", config=config_file, **options) == 0
    own, written = masks_in(tmp_path / "same"), masks_in(done / "out" / "masks")
    assert own.keys() == written.keys()
    for seed, (name, mask) in enumerate(written.items()):  # those that were accepted stay as they are
        np.testing.assert_array_equal(mask, draw(SIZES[seed], seed)[1] if seed < 3 else own[name])


def test_a_resumed_run_keeps_everything(done):
    before = weights(done / "out")
    assert distil(done) == 0
    assert_same_weights(weights(done / "out"), before)
    assert [row["status"] for row in read_summary(done / "out" / "masks")] == ["kept"] * len(SIZES)


def test_label_maps_are_scored_as_foreground(done, tmp_path):
    truth = tmp_path / "data" / "masks"
    truth.mkdir(parents=True)
    (tmp_path / "data" / "images").symlink_to(done / "images")
    for seed, size in enumerate(SIZES):
        save(truth / f"scan{seed}", draw(size, seed)[1])
    options = {"predictions_dir": done / "out" / "masks", "output_dir": tmp_path / "scores", "device": "cpu"}
    assert call("evaluation", dataset_dir=tmp_path / "data", **options) == 0
    with (tmp_path / "scores" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "deployed" and row["file"] == "images/scan3.png"]
    mask, labels = masks_in(done / "out" / "masks")["scan3_mask.png"] > 0, draw(SIZES[3], 3)[1] > 0
    expected = 2 * (mask & labels).sum() / (mask.sum() + labels.sum())
    assert float(rows[0]["dice"]) == pytest.approx(expected, abs=1e-5)
    assert 0.5 < expected < 1


def test_volumes_become_label_maps_on_their_own_grid(tmp_path):
    base = draw_data(tmp_path / "volumes", [(20, 25, 11), (23, 19, 13), (18, 21, 12), (22, 20, 9)])
    options = {"student_size": [32, 32, 16], "working_size": [12, 12, 8], "network_def#features": 8, "round_steps": 40}
    assert distil(base, "volume.yaml", **options) == 0
    for seed in range(4):
        image = nib.load(base / "images" / f"scan{seed}.nii.gz")
        mask = nib.load(base / "out" / "masks" / f"scan{seed}_mask.nii.gz")
        assert (mask.shape, mask.get_data_dtype()) == (image.shape, np.uint8)
        np.testing.assert_allclose(mask.affine, image.affine)
        assert set(np.unique(mask.dataobj)) == {0, 1, 5}

    # The student's bundle writes a DICOM segment for each class.
    highdicom = pytest.importorskip("highdicom")
    write_ct_series(tmp_path / "dicom" / "scan", draw((11, 25, 20), seed=9)[0].astype(np.uint16))
    options = {"dataset_dir": tmp_path / "dicom", "output_dir": tmp_path / "seg", "device": "cpu"}
    config = base / "out" / "model" / "configs" / "inference.json"
    assert call("inference", config=config, dicom_output="seg", **options) == 0
    values = np.asarray(nib.load(tmp_path / "seg" / "scan_mask.nii.gz").dataobj)
    assert set(np.unique(values)) == {0, 1, 5}
    seg = highdicom.seg.segread(tmp_path / "seg" / "scan_mask.dcm")
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["class 1", "class 5"]
    volume = seg.get_volume(combine_segments=True).array
    assert [(volume == place).sum() for place in (1, 2)] == [(values == value).sum() for value in (1, 5)]


def test_a_network_of_other_channels_is_refused_before_anything_is_written(tmp_path):
    base = draw_data(tmp_path / "data", SIZES)
    told = "error: distiller cannot be built: student_def must put out 3 channels of the size of its input, (1, 3, 32,"
    assert distil(base, **{"student_def#out_channels": 1}).startswith(told)
    assert not (base / "out").exists()


@pytest.mark.parametrize("classes", [[0, 1], [5, 1], [1, 1], [65536], [], [1.5], 3])
def test_classes_that_are_none(tmp_path, classes):
    base = draw_data(tmp_path / "data", SIZES[:1], accepted=1)
    told = f"error: classes must be a list of ascending whole numbers from 1 to 65535, got {classes}"
    assert distil(base, classes=classes) == told
