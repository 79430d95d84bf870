"""Volumes through every workflow: formats, anisotropic voxels, slices, several sequences, CT."""

import csv
import json
import shutil

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_tools import SMALL, call, hear, read_summary
from PIL import Image

SPACING = np.array([1.5, 1.5, 4.0])
SMALL_VOLUMES = {
    "device": "cpu",
    "network_def#features": 4,
    "working_size": [12, 12, 12],
    "steps": 2,
    "inferer#min_clusters": 0,
    "inferer#progress": False,
}
OVERLAYS = [("volume.yaml", SMALL_VOLUMES), ("slices.yaml", SMALL_VOLUMES)]


def draw_volume(seed=0, shape=(17, 19, 8)):
    """A bright ellipsoid on dark, noisy ground, int16, and its mask."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    inside = sum((axis / width) ** 2 for axis, width in zip(grid, (0.5, 0.6, 0.7), strict=True)) < 1
    return (rng.normal(-50, 12, shape) + 200 * inside).astype(np.int16), inside.astype(np.uint8)


def oblique_affine():
    """RAS, turned about two axes, with the voxels of `SPACING`."""
    cos, sin = np.cos(0.3), np.sin(0.3)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    affine[:3, 3] = [-30.5, 12.25, 101.0]
    return affine


def write_with_itk(path, volume, affine):
    """In the coordinates of ITK, LPS."""
    image = itk.image_from_array(np.ascontiguousarray(volume.T))
    image.SetSpacing(SPACING.tolist())
    lps = np.diag([-1.0, -1.0, 1.0])
    image.SetDirection(itk.matrix_from_array(lps @ affine[:3, :3] / SPACING))
    image.SetOrigin((lps @ affine[:3, 3]).tolist())
    itk.imwrite(image, str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two volumes with masks, as NIfTI."""
    base = tmp_path_factory.mktemp("volumes")
    for kind in ("images", "masks"):
        (base / kind).mkdir()
    for index in range(2):
        volume, mask = draw_volume(index, (17, 19 + index, 8))
        nib.save(nib.Nifti1Image(volume, oblique_affine()), base / "images" / f"v{index}.nii.gz")
        nib.save(nib.Nifti1Image(mask, oblique_affine()), base / "masks" / f"v{index}.nii.gz")
    return base


def mask_of(output, name):
    return nib.load(output / f"{name}_mask.nii.gz")


def infer(folder, output, *overlays, **options):
    return call("inference", *overlays, dataset_dir=folder, output_dir=output, **options)


@pytest.mark.parametrize(("overlay", "options"), OVERLAYS)
def test_every_format_gives_the_same_mask_with_the_affine_of_its_file(tmp_path, overlay, options, write_dicom_series):
    volume, _ = draw_volume()
    data = tmp_path / "data"
    data.mkdir()
    nib.save(nib.Nifti1Image(volume, oblique_affine()), data / "nifti.nii.gz")
    for name in ("nrrd.nrrd", "meta.mha"):
        write_with_itk(data / name, volume, oblique_affine())
    write_dicom_series(data / "series", volume.T, spacing=SPACING.tolist())
    assert infer(data, tmp_path / "out", overlay, **options) == 0
    assert len(read_summary(tmp_path / "out")) == 4
    for kind in ("clusters", "mask"):
        expected = nib.load(tmp_path / "out" / f"nifti_{kind}.nii.gz")
        assert np.array_equal(expected.affine, nib.load(data / "nifti.nii.gz").affine)
        assert kind == "mask" or np.asarray(expected.dataobj).max() > 1
        for name in ("nifti", "nrrd", "meta", "series"):
            labels = nib.load(tmp_path / "out" / f"{name}_{kind}.nii.gz")
            assert labels.shape == volume.shape
            assert labels.get_data_dtype() == np.uint8
            assert np.array_equal(np.asarray(labels.dataobj), np.asarray(expected.dataobj)), name
            if name != "series":  # which stands straight
                np.testing.assert_allclose(labels.affine, oblique_affine(), atol=1e-5)
    series = mask_of(tmp_path / "out", "series").affine
    np.testing.assert_allclose(series, [[-1.5, 0, 0, -10], [0, -1.5, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize(("overlay", "options"), OVERLAYS)
def test_a_training_serves_feed_forward(folder, tmp_path, overlay, options):
    training = {key: value for key, value in options.items() if not key.startswith("inferer")}
    training |= {"dataset_dir": folder, "output_dir": tmp_path / "training", "max_epochs": 1, "batch_size": 2}
    assert call("training", overlay, **training) == 0
    checkpoint = tmp_path / "training" / "model.pt"
    without = {key: value for key, value in options.items() if key != "steps"}
    assert infer(folder, tmp_path / "out", overlay, "feedforward.yaml", checkpoint=checkpoint, **without) == 0
    assert [row["steps"] for row in read_summary(tmp_path / "out")] == ["0", "0"]
    assert mask_of(tmp_path / "out", "v1").shape == (17, 20, 8)


@pytest.mark.parametrize(("overlay", "options"), OVERLAYS)
def test_evaluation(folder, tmp_path, overlay, options):
    assert call("evaluation", overlay, dataset_dir=folder, output_dir=tmp_path, **options) == 0
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "FuseNet" and row["level"] == "deployed"]
    for row in rows:
        name = row["file"].removeprefix("images/").removesuffix(".nii.gz")
        mask, truth = (
            np.asarray(nib.load(path).dataobj) > 0
            for path in (tmp_path / f"{name}_mask.nii.gz", folder / "masks" / f"{name}.nii.gz")
        )
        assert float(row["dice"]) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()), abs=1e-4)
    assert len(rows) == 2


def test_distillation_in_slices(folder, tmp_path):
    student = {"student_def#features": [4] * 6, "student_size": [32, 32, 32], "teacher_seeds": [0], "rounds": 1}
    options = {**SMALL_VOLUMES, **student, "round_steps": 1, "batch_size": 2}
    output = tmp_path / "out"
    assert call("distillation", "slices.yaml", dataset_dir=folder, output_dir=output, **options) == 0
    config = output / "model" / "configs" / "inference.json"
    assert call("inference", config=config, dataset_dir=folder, output_dir=tmp_path / "new", device="cpu") == 0
    for name in ("v0", "v1"):
        own, new = mask_of(output / "masks", name), mask_of(tmp_path / "new", name)
        assert np.array_equal(np.asarray(own.dataobj), np.asarray(new.dataobj))
        assert np.array_equal(own.affine, nib.load(folder / "images" / f"{name}.nii.gz").affine)


def test_the_working_grid_follows_the_millimetres(folder, tmp_path, monkeypatch):
    from monai_fusenet.inferers import PerImageInferer

    seen = []
    fit = PerImageInferer.__call__
    monkeypatch.setattr(
        PerImageInferer, "__call__", lambda self, images, *rest: seen.append(images.shape) or fit(self, images, *rest)
    )
    assert infer(folder, tmp_path / "a", "volume.yaml", working_spacing=2.0, **SMALL_VOLUMES) == 0
    assert infer(folder, tmp_path / "b", "slices.yaml", working_spacing=2.0, **SMALL_VOLUMES) == 0
    # 25.5 x 28.5 (30) x 32 mm
    assert [list(shape[2:]) for shape in seen] == [[13, 14, 16], [13, 15, 16], [13, 14, 8], [13, 15, 8]]


@pytest.mark.parametrize("slices", [2, 3])
def test_slices_may_be_few(tmp_path, slices):
    (tmp_path / "data").mkdir()
    volume, _ = draw_volume(shape=(17, 19, slices))
    nib.save(nib.Nifti1Image(volume, oblique_affine()), tmp_path / "data" / "few.nii.gz")
    assert infer(tmp_path / "data", tmp_path / "out", "slices.yaml", **SMALL_VOLUMES) == 0
    assert mask_of(tmp_path / "out", "few").shape == (17, 19, slices)


@pytest.mark.parametrize(
    ("shift", "status", "told"),
    [
        (3, 0, "images/v1.nii.gz: truth brought from another grid to that of the image, of which it covers "),
        (50, 2, "images/v1.nii.gz not scored: the mask lies outside the image, their fields of view do not overlap"),
    ],
)
def test_a_truth_that_lies_elsewhere_is_told(folder, tmp_path, caplog, shift, status, told):
    shutil.copytree(folder, tmp_path / "data")
    path = tmp_path / "data" / "masks" / "v1.nii.gz"
    mask = nib.load(path)
    affine = mask.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), affine), path)
    hear(caplog)
    options = {**SMALL_VOLUMES, "dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out"}
    assert call("evaluation", "volume.yaml", **options, logging_file=False) == status
    assert [message[: len(told)] for message in caplog.messages if "v1.nii.gz" in message] == [told]


def test_half_of_the_channels_are_a_second_view(sequences, tmp_path):
    options = {**SMALL_VOLUMES, "sequences": ["_t1", "_t2"], "second_view_channels": 2}
    assert infer(sequences, tmp_path, "volume.yaml", "second_view.yaml", **options) == (
        "error: second_view_channels must be half of in_channels, 0 or 1, got 2"
    )


def test_a_spacing_that_is_none_is_one_line(folder, tmp_path):
    message = infer(folder, tmp_path, "volume.yaml", working_spacing=0, **SMALL_VOLUMES)
    assert message == (
        "error: preprocessing cannot be built: working_spacing must be a finite number of at least 0.001, got 0"
    )


# Several sequences


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Two cases of two sequences, of which one is much brighter than the other, with masks; the last lacks one."""
    base = tmp_path_factory.mktemp("sequences")
    for kind in ("images", "masks"):
        (base / kind).mkdir()
    for index in range(3):
        volume, mask = draw_volume(index)
        nib.save(nib.Nifti1Image(volume, oblique_affine()), base / "images" / f"p{index}_t1.nii.gz")
        if index < 2:
            second = ((3000 - 10 * volume.astype(float)) ** 2 / 3000).astype(np.int16)  # not the mere opposite
            nib.save(nib.Nifti1Image(second, oblique_affine()), base / "images" / f"p{index}_t2.nii.gz")
        nib.save(nib.Nifti1Image(mask, oblique_affine()), base / "masks" / f"p{index}.nii.gz")
    return base


@pytest.mark.parametrize("overlay", ["mr.yaml", "second_view.yaml"])
@pytest.mark.parametrize(("dimension", "options"), OVERLAYS)
def test_sequences_as_channels_and_as_views(sequences, tmp_path, overlay, dimension, options):
    options = {**options, "sequences": ["_t1", "_t2"], "in_channels": 2}
    assert infer(sequences, tmp_path / "out", dimension, overlay, **options) == 2
    rows = {row["file"]: row for row in read_summary(tmp_path / "out")}
    assert [(file, row["status"]) for file, row in rows.items()] == [
        ("images/p0", "ok"),
        ("images/p1", "ok"),
        ("images/p2", "failed"),
    ]
    assert "p2_t2.nii.gz" in rows["images/p2"]["message"]
    assert np.array_equal(mask_of(tmp_path / "out", "p0").affine, nib.load(sequences / "images/p0_t1.nii.gz").affine)


@pytest.mark.parametrize("overlay", ["mr.yaml", "second_view.yaml"])
def test_sequences_train_and_are_evaluated(sequences, tmp_path, overlay):
    options = {**SMALL_VOLUMES, "sequences": ["_t1", "_t2"], "in_channels": 2, "dataset_dir": sequences}
    training = {key: value for key, value in options.items() if not key.startswith("inferer")}
    output = tmp_path / "training"
    assert call("training", "volume.yaml", overlay, **training, output_dir=output, max_epochs=1, batch_size=2) == 2
    encoders = {name.split(".")[0] for name in torch.load(output / "model.pt", weights_only=True)}
    assert ("augmented_encoder" in encoders) == (overlay == "second_view.yaml")
    options |= {"checkpoint": output / "model.pt", "output_dir": tmp_path / "scores"}
    options.pop("steps")
    assert call("evaluation", "volume.yaml", overlay, "feedforward.yaml", **options) == 2


def test_a_student_of_sequences_finds_them_by_itself(sequences, tmp_path):
    student = {"student_def#features": [4] * 6, "student_size": [32, 32, 32], "teacher_seeds": [], "rounds": 1}
    options = {**SMALL_VOLUMES, **student, "round_steps": 1, "sequences": ["_t1", "_t2"]}
    output = tmp_path / "out"
    status = call(
        "distillation", "volume.yaml", "second_view.yaml", dataset_dir=sequences, output_dir=output, **options
    )
    assert status == 2
    config = output / "model" / "configs" / "inference.json"
    assert json.loads(config.read_text(encoding="utf-8"))["sequences"] == ["_t1", "_t2"]
    assert call("inference", config=config, dataset_dir=sequences, output_dir=tmp_path / "new", device="cpu") == 2
    assert mask_of(tmp_path / "new", "p1").shape == (17, 19, 8)


def test_too_few_channels_say_what_to_give(sequences, tmp_path):
    assert infer(sequences, tmp_path, "volume.yaml", "mr.yaml", **SMALL_VOLUMES, sequences=["_t1", "_t2"]) == 1
    expected = "expected an image of 1 channels, or grey, got 2 channels; in_channels says how many"
    assert read_summary(tmp_path)[0]["message"].endswith(expected)


# CT


def test_a_window_decides_what_is_seen(tmp_path):
    """Beside what is seen in the lung's window, nothing is seen in that of bone, and the other way round."""
    hounsfield = np.full((30, 40), -900, np.int16)
    hounsfield[8:20, 5:15] = -300
    hounsfield[8:20, 25:35] = 600
    hounsfield += np.random.default_rng(0).integers(-9, 10, hounsfield.shape).astype(np.int16)
    (tmp_path / "data").mkdir()
    nib.save(nib.Nifti1Image(hounsfield[..., None], np.eye(4)), tmp_path / "data" / "slice.nii.gz")
    greys = {}
    for window in ("[-600, 1200]", "[500, 400]"):
        output = tmp_path / window
        assert infer(tmp_path / "data", output, "ct.yaml", **SMALL, window=json.loads(window)) == 0
        assert read_summary(output)[0]["status"] == "ok"
        greys[window] = np.asarray(Image.open(output / "slice_panel.png").convert("L"))
    assert not np.array_equal(*greys.values())


def test_an_unknown_window_is_one_line(folder, tmp_path):
    message = infer(folder, tmp_path, "volume.yaml", "ct.yaml", **SMALL_VOLUMES, window="lungs")
    assert message == (
        "error: preprocessing cannot be built: window must be one of lung, mediastinum, abdomen, liver, brain, bone, "
        "or [level, width] in HU, got lungs"
    )


# Real volumes


def test_real_volumes_through_every_workflow(shared_dir, tmp_path):
    overlay, folder = "volume.yaml", tmp_path / "data"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((shared_dir / "data" / "hippocampus_mr_3d" / kind).glob("*.nii.gz"))[::3]:
            (folder / kind / path.name).symlink_to(path)
    options = {**SMALL_VOLUMES, "steps": 1, "dataset_dir": folder}
    training = {key: value for key, value in options.items() if not key.startswith("inferer")}
    student = {"student_def#features": [4] * 6, "student_size": [32, 32, 32], "teacher_seeds": [], "rounds": 1}
    student |= {"round_steps": 1, "batch_size": 2, "flip_axes": []}
    student |= {"student_norm": ["instance", {"affine": True}]}  # batch norm knows no statistics after one step
    images = sorted((folder / "images").glob("*.nii.gz"))
    assert len(images) == 7

    assert call("training", overlay, **training, output_dir=tmp_path / "training", max_epochs=1) == 0
    assert call("inference", overlay, **options, output_dir=tmp_path / "inference") == 0
    assert call("evaluation", overlay, **options, output_dir=tmp_path / "evaluation") == 0
    assert call("distillation", overlay, **options, **student, output_dir=tmp_path / "distillation") == 0
    for output in ("inference", "evaluation", "distillation/masks", "distillation/teacher/classical"):
        rows = read_summary(tmp_path / output)
        assert [row["status"] for row in rows] == ["ok"] * 7
        for path in images:
            image = nib.load(path)
            for kind in ("clusters", "mask"):
                labels = nib.load(tmp_path / output / path.name.replace(".nii.gz", f"_{kind}.nii.gz"))
                assert np.array_equal(labels.affine, image.affine)
                assert labels.shape == image.shape
                assert labels.get_data_dtype() == np.uint8
