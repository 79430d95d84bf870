"""The inference workflow on drawn images: files, statuses, repetition, bad input."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_tools import BUNDLE, CONFIGS, OVERLAYS, SMALL, call, draw_folder, draw_image, last_line, read_summary, run
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from monai_fusenet.results.summary import SUMMARY_COLUMNS
from monai_fusenet.transforms import split_objects

KINDS = ("clusters", "mask", "panel")


def infer(folder, output, *overlays, **options):
    return call("inference", *overlays, dataset_dir=folder, output_dir=output, **{**SMALL, **options})


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder of three images and the results of a run."""
    base = tmp_path_factory.mktemp("inference")
    folder = draw_folder(base / "data", masks=False)
    assert infer(folder, base / "out") == 0
    return folder, base / "out"


def test_results_of_each_image(done):
    folder, output = done
    names = {f"scan{index}_{kind}.png" for index in range(3) for kind in KINDS}
    assert {path.name for path in output.iterdir()} == {*names, "summary.csv"}
    for index in range(3):
        image = pixels(folder / "images" / f"scan{index}.png")
        clusters, mask = (pixels(output / f"scan{index}_{kind}.png") for kind in ("clusters", "mask"))
        assert clusters.shape == mask.shape == image.shape[:2]
        assert clusters.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        sizes = np.bincount(clusters.ravel())
        assert sizes[0] == 0  # labels start at 1 ...
        assert (np.diff(sizes[1:]) <= 0).all()  # ... go by decreasing size ...
        assert sizes[1:].all()  # ... and leave none out


def test_summary(done):
    rows = read_summary(done[1])
    assert list(rows[0]) == list(SUMMARY_COLUMNS)
    assert [row["file"] for row in rows] == [f"images/scan{index}.png" for index in range(3)]
    for index, row in enumerate(rows):
        assert row["status"] == "ok"
        assert int(row["steps"]) == 2  # at half of the working size
        assert float(row["seconds"]) > 0
        assert int(row["clusters"]) == pixels(done[1] / f"scan{index}_clusters.png").max()
        fraction = (pixels(done[1] / f"scan{index}_mask.png") > 0).mean()
        assert float(row["mask_fraction"]) == pytest.approx(fraction, abs=1e-4)
        assert row["choice"].startswith("chosen " if fraction else "no candidate")
        assert 0 < float(row["confidence"]) <= 1 if fraction else row["confidence"] == ""


def test_one_partition_says_nothing_of_confidence(done, tmp_path):
    assert infer(done[0], tmp_path / "out", partitions=[]) == 0
    assert [row["confidence"] for row in read_summary(tmp_path / "out")] == [""] * 3
    # And masks of other partitions are not taken for these.
    assert "come from another image or from other options" in infer(done[0], tmp_path / "out")
    message = "partitions must be a list of different whole numbers of at least 2, as [2,3,4], got 3"
    assert message in infer(done[0], tmp_path / "none", partitions=3)
    assert not (tmp_path / "none").exists()


def draw_discs(folder):
    """A bright image with five dark discs, two of which touch, and its mask."""
    rows, columns = np.indices((70, 90))
    mask = np.zeros((70, 90), bool)
    for row, column in [(15, 15), (15, 38), (15, 70), (50, 25), (50, 65)]:
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= 12**2
    for kind, array in (("images", np.where(mask, 60, 200)), ("masks", mask * 255)):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(folder / kind / "discs.png")
    return folder


def test_the_preset_for_nuclei_writes_objects(tmp_path):
    folder = draw_discs(tmp_path / "data")
    assert infer(folder, tmp_path / "out", "nuclei.yaml") == 0
    expected = [f"discs_{kind}.png" for kind in ("clusters", "mask", "objects", "panel")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*expected, "summary.csv"]
    mask, objects = (pixels(tmp_path / "out" / f"discs_{kind}.png") for kind in ("mask", "objects"))
    np.testing.assert_array_equal(objects, split_objects(mask))
    (row,) = read_summary(tmp_path / "out")
    assert int(row["objects"]) == objects.max() > 0
    (tmp_path / "out" / "discs_objects.png").unlink()
    assert infer(folder, tmp_path / "out", "nuclei.yaml") == 0
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok"]  # made again


def test_results_without_objects_are_others(tmp_path):
    folder = draw_discs(tmp_path / "data")
    assert infer(folder, tmp_path / "out", split_objects=True) == 0
    assert "come from another image or from other options" in infer(folder, tmp_path / "out")
    assert infer(folder, tmp_path / "out", overwrite=True) == 0
    assert not (tmp_path / "out" / "discs_objects.png").exists()
    assert [row["objects"] for row in read_summary(tmp_path / "out")] == [""]


def test_split_objects_is_a_switch(tmp_path):
    folder = draw_discs(tmp_path / "data")
    assert infer(folder, tmp_path / "out", split_objects="yes") == "error: split_objects must be True or False, got yes"


def test_finished_images_are_kept_and_missing_ones_made_again(done, tmp_path):
    folder, output = done
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / "scan1_mask.png").unlink()
    before = (tmp_path / "out" / "scan0_mask.png").stat().st_mtime_ns
    assert infer(folder, tmp_path / "out") == 0
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["kept", "ok", "kept"]
    assert (tmp_path / "out" / "scan0_mask.png").stat().st_mtime_ns == before
    assert [row["clusters"] for row in read_summary(tmp_path / "out")] == [r["clusters"] for r in read_summary(output)]
    assert infer(folder, tmp_path / "out", overwrite=True) == 0
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok"] * 3


def test_nothing_left_to_do(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    assert infer(done[0], tmp_path / "out") == 0
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["kept"] * 3


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"seed": 0}], ids=["workers", "again"])
def test_same_image_same_result_in_any_company(done, tmp_path, options):
    folder, output = done
    # Other names turn the order round, and one image is alone at the end.
    (tmp_path / "data").mkdir()
    for index in range(3):
        shutil.copy(folder / "images" / f"scan{index}.png", tmp_path / "data" / f"{'cba'[index]}.png")
    assert infer(tmp_path / "data", tmp_path / "out", **options) == 0
    for index in range(3):
        ours = pixels(tmp_path / "out" / f"{'cba'[index]}_clusters.png")
        np.testing.assert_array_equal(ours, pixels(output / f"scan{index}_clusters.png"))


def test_another_seed_gives_another_result(done, tmp_path):
    assert infer(done[0], tmp_path / "out", seed=1) == 0
    same = [
        np.array_equal(
            pixels(tmp_path / "out" / f"scan{index}_clusters.png"), pixels(done[1] / f"scan{index}_clusters.png")
        )
        for index in range(3)
    ]
    assert not all(same)


def test_bad_images_fail_by_name_and_the_others_go_on(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    image, _ = draw_image(30, 40)
    Image.fromarray(image).save(folder / "a_good.png")
    Image.fromarray(np.full((30, 40, 3), 7, np.uint8)).save(folder / "b_constant.png")
    (folder / "c_truncated.png").write_bytes((folder / "a_good.png").read_bytes()[:900])
    Image.fromarray(image[:5, :5]).save(folder / "d_tiny.png")
    (folder / "e_empty.png").touch()
    grey = image[..., 0].astype(np.float32)
    grey[3, 4] = np.nan
    nib.save(nib.Nifti1Image(grey, np.eye(4)), folder / "f_nan.nii.gz")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 10, 11)), np.eye(4)), folder / "g_volume.nii.gz")
    Image.fromarray(image).save(folder / "h_good.jpg")

    assert infer(folder, tmp_path / "out") == 2
    rows = {row["file"]: row for row in read_summary(tmp_path / "out")}
    assert [row["status"] for row in rows.values()] == ["ok", *["failed"] * 6, "ok"]
    assert "every pixel has the value (7, 7, 7)" in rows["b_constant.png"]["message"]
    assert "cannot read" in rows["c_truncated.png"]["message"]
    assert "at least 8 pixels, got the shape (5, 5)" in rows["d_tiny.png"]["message"]
    assert "the file is empty" in rows["e_empty.png"]["message"]
    assert "1 of 1200 pixel values are NaN or infinite" in rows["f_nan.nii.gz"]["message"]
    assert "add the preset volume" in rows["g_volume.nii.gz"]["message"]
    assert (tmp_path / "out" / "h_good_mask.png").is_file()


def test_all_images_bad_is_status_1(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.png").touch()
    assert infer(tmp_path / "data", tmp_path / "out") == 1


def test_a_name_too_long_for_results_fails_alone_however_often(tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(draw_image(30, 40)[0]).save(tmp_path / "data" / f"{'x' * 246}.png")
    Image.fromarray(draw_image(30, 40)[0]).save(tmp_path / "data" / f"{'y' * 220}.png")
    for status in ("ok", "kept"):
        assert infer(tmp_path / "data", tmp_path / "out") == 2
        assert [row["status"] for row in read_summary(tmp_path / "out")] == ["failed", status]


def test_failure_to_write_fails_the_image(done, tmp_path):
    (tmp_path / "out" / "scan1_mask.png").mkdir(parents=True)  # a folder stands where a file should go
    assert infer(done[0], tmp_path / "out") == 2
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["ok", "failed", "ok"]


def test_equal_stems_in_sub_folders_are_told_apart(tmp_path):
    for index, folder in enumerate(("left", "right")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.fromarray(draw_image(30, 40, seed=index)[0]).save(tmp_path / "data" / folder / "eye.png")
    assert infer(tmp_path / "data", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*_mask.png")} == {"left_eye_mask.png", "right_eye_mask.png"}


def test_volume_keeps_its_affine(tmp_path):
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    volume = rng.normal(100, 5, (13, 18, 11)).astype(np.float32)
    volume[4:9, 5:12, 3:8] += 60
    affine = np.array([[0, -1.5, 0, 10], [0.8, 0, 0, -7], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "data" / "brain.nii.gz")
    output = tmp_path / "out"
    assert infer(tmp_path / "data", output, "volume.yaml", working_size=[12, 12, 8]) == 0
    for kind in ("clusters", "mask"):
        image = nib.load(output / f"brain_{kind}.nii.gz")
        assert image.shape == (13, 18, 11)
        np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "data" / "brain.nii.gz").affine)
    assert set(np.unique(nib.load(output / "brain_mask.nii.gz").get_fdata())) <= {0, 1}
    assert (output / "brain_panel.png").is_file()


def test_the_same_from_any_folder(done, tmp_path):
    """From the bundle's folder and from elsewhere, relative paths only differ in the command."""
    folder, output = done
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    shutil.copytree(folder, tmp_path / "data")
    for cwd, config, data in (
        (tmp_path / "bundle", "configs/inference.json", "../data"),
        (tmp_path, "bundle/configs/inference.json", "data"),
    ):
        options = {**SMALL, "working_size": "[24,24]"}
        result = run("run" if cwd == tmp_path else "inference", cwd=cwd, config=config, dataset_dir=data, **options)
        assert result.returncode == 0, result.stderr
        for index in range(3):
            found = pixels(cwd / "output" / "inference" / f"scan{index}_clusters.png")
            np.testing.assert_array_equal(found, pixels(output / f"scan{index}_clusters.png"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_dirr": "data"}, "error: unknown option dataset_dirr; did you mean dataset_dir?"),
        ({"inferer#stepz": 3}, "error: unknown option inferer#stepz; did you mean inferer#steps?"),
        ({"dataset_dir": "nowhere"}, "error: the dataset folder does not exist: {cwd}/nowhere"),
        ({"dataset_dir": "."}, "error: no image in {cwd}: found no file that ends in .png"),
        ({"device": "cuda:77"}, "error: device cuda:77 cannot be used here"),
        ({"seed": -1}, "error: seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**32}, "error: seed must be below 2**32, got 4294967296"),
        ({"overwrite": "yes"}, "error: overwrite must be True or False, got yes"),
        ({"num_workers": 1.5}, "error: num_workers must be a whole number of at least 0, got 1.5"),
        ({"working_size": 64}, "error: working_size must be 2 whole numbers of at least 8, got 64"),
        ({"working_size": [0, 0]}, "error: working_size must be 2 whole numbers of at least 8, got [0, 0]"),
        ({"working_size": "abc"}, "error: working_size must be 2 whole numbers of at least 8, got abc"),
        (
            {"spatial_dims": 4, "working_size": [9] * 4},
            "error: network_def cannot be built: spatial_dims must be 2 or 3",
        ),
        ({"inferer#steps": -1}, "error: inferer cannot be built: steps must be a whole number of at least 0, got -1"),
        (
            {"foreground#polarity": "blue"},
            'error: foreground cannot be built: polarity must be "dark", "bright" or "any"',
        ),
        (
            {"inferer#momentum": "x"},
            "error: inferer cannot be built: momentum must be a finite number from",
        ),
        ({"inferer#min_clusters": "x"}, "error: inferer cannot be built: min_clusters must be a whole number of at"),
        ({"foreground#centre_weight": "abc"}, "error: foreground cannot be built: centre_weight must be a finite"),
        ({"loss_function#edge_factor": "x"}, "error: loss_function cannot be built: factor must be a whole number"),
        ({"inferer#fresh": "no"}, "error: inferer cannot be built: fresh must be True or False, got no"),
        ({"loss_function#edge_mode": "x"}, 'error: loss_function cannot be built: mode must be "soft" or "published"'),
        ({"checkpoint": "x.pt"}, "error: --checkpoint has no effect here"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_bad_options_get_one_line(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert call("inference", **options).startswith(message.format(cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_option_prints_one_line_and_exits_with_1(tmp_path):
    result = run("inference", cwd=tmp_path, dataset_dirr="data")
    assert result.returncode == 1
    assert last_line(result) == "error: unknown option dataset_dirr; did you mean dataset_dir?"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("overlay", ["feedforward.yaml", "adapt.yaml"])
def test_overlays_that_need_weights_say_so(tmp_path, monkeypatch, overlay):
    monkeypatch.chdir(tmp_path)
    assert call("inference", overlay) == (
        "error: feed-forward and adaptation need trained weights: give --checkpoint, a training's model.pt"
    )
    untrained = call("inference", overlay, checkpoint=BUNDLE / "models" / "model.pt")
    assert untrained.endswith("model.pt holds the untrained weights that the bundle ships: train first")


def test_results_may_not_go_among_the_images(tmp_path):
    folder = draw_folder(tmp_path / "data")
    assert "are the same folder" in infer(folder, folder)


def test_results_inside_the_dataset_folder_are_no_images(done, tmp_path):
    shutil.copytree(done[0] / "images", tmp_path / "data")
    for _ in range(2):
        assert infer(tmp_path / "data", tmp_path / "data" / "results") == 0
    assert len(read_summary(tmp_path / "data" / "results")) == 3


def test_results_of_other_options_are_refused_and_stay(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert infer(done[0], tmp_path / "out", **{"foreground#polarity": "bright"}) == (
        f"error: {tmp_path / 'out'} holds results for images/scan0.png and 2 others that come from another image or "
        "from other options; choose another --output_dir, or redo them with --overwrite True"
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert infer(done[0], tmp_path / "out", overwrite=True, **{"foreground#polarity": "bright"}) == 0


def test_workers_change_nothing_where_torch_has_several_threads(done, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for workers in (0, 2):
            assert infer(done[0], tmp_path / str(workers), num_workers=workers) == 0
    finally:
        torch.set_num_threads(before)
    for name in ("scan0_clusters.png", "scan1_clusters.png", "scan2_mask.png"):
        np.testing.assert_array_equal(pixels(tmp_path / "0" / name), pixels(tmp_path / "2" / name))


def test_results_of_any_workflow_are_no_images(done, tmp_path):
    shutil.copytree(done[0] / "images", tmp_path / "data" / "images2")
    shutil.copytree(done[1], tmp_path / "data" / "output" / "inference")
    assert infer(tmp_path / "data", tmp_path / "data" / "output" / "again") == 0
    assert len(read_summary(tmp_path / "data" / "output" / "again")) == 3


def test_a_number_takes_the_place_of_a_background_without_values(tmp_path):
    (tmp_path / "data").mkdir()
    grey = draw_image(40, 31)[0][..., 0].astype(np.float32)
    grey[:, :4] = np.nan
    nib.save(nib.Nifti1Image(grey, np.eye(4)), tmp_path / "data" / "masked.nii.gz")
    assert infer(tmp_path / "data", tmp_path / "refused") == 1
    (row,) = read_summary(tmp_path / "refused")
    assert "160 of 1240 pixel values are NaN or infinite; --nan_value 0, or another number, replaces" in row["message"]
    assert infer(tmp_path / "data", tmp_path / "out", nan_value=0) == 0
    (row,) = read_summary(tmp_path / "out")
    assert row["status"] == "ok"
    zeros = np.nan_to_num(grey)
    nib.save(nib.Nifti1Image(zeros, np.eye(4)), tmp_path / "data" / "masked.nii.gz")
    assert infer(tmp_path / "data", tmp_path / "zeros") == 0
    masks = [nib.load(tmp_path / folder / "masked_mask.nii.gz").get_fdata() for folder in ("out", "zeros")]
    np.testing.assert_array_equal(*masks)


def test_paper_refuses_16_bit_pictures(tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(draw_image(40, 40)[0][..., 0].astype(np.uint16) * 257).save(tmp_path / "data" / "deep.png")
    options = {"inferer#steps": 1, "inferer#progress": False, "network_def#features": 4, "device": "cpu"}
    assert call("inference", "paper.yaml", dataset_dir=tmp_path / "data", output_dir=tmp_path / "out", **options) == 1
    assert read_summary(tmp_path / "out")[0]["message"].startswith("expected an 8-bit picture")


def test_contours_are_refined_on_the_image_as_it_was_loaded():
    rows, columns = np.ogrid[:96, :120]
    disks = np.zeros((96, 120), dtype=bool)
    for row, column in ((20, 20), (30, 70), (70, 40), (75, 95)):
        disks |= (rows - row) ** 2 + (columns - column) ** 2 <= 9**2
    loaded = torch.from_numpy(np.where(disks, 0.8, 0.1)).float().repeat(3, 1, 1)
    # The network saw a copy with a fourth of the pixels a side: its scores make a contour in steps.
    copy = torch.nn.functional.interpolate(loaded.unsqueeze(0), size=(24, 30), mode="area")[0]
    meta = {"spatial_shape": [96, 120], "loaded_affine": torch.eye(4)}
    parser = ConfigParser(ConfigParser.load_config_files([CONFIGS / "inference.json", OVERLAYS / "nuclei.yaml"]))
    parser["merge_twins"] = False
    parser["postprocessing#transforms#1#guide_key"] = None
    scores = torch.cat([1 - copy[:1], copy[:1] + 0.6])  # of the ground, and of disks that are too large
    sample = {"image": MetaTensor(copy, meta=meta), "original": MetaTensor(loaded, meta=meta), "pred": scores}
    done = parser.get_parsed_content("postprocessing")(sample)
    assert (done["clusters"][0].numpy() == 2).sum() > 1.2 * disks.sum()
    np.testing.assert_array_equal(done["pred"][0].numpy() > 0, disks)
