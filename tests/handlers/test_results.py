import csv
import errno
import io
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, CopyItemsd, Resized
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import label as connected_components
from torch import nn

from monai_fusenet.data import LoadMedicalImaged, load_image
from monai_fusenet.engines import FolderEvaluator, ForgivingDataset
from monai_fusenet.handlers import ResultWriter, result_path, write_label_map
from monai_fusenet.inferers import FitRecord
from monai_fusenet.results.image import ImageResult
from monai_fusenet.results.summary import Summary, describe_choice, read_summary_and_parts
from monai_fusenet.transforms import Region, ScoresToClustersd
from monai_fusenet.utils.files import CannotWriteError
from monai_fusenet.utils.memory import peak_memory

COLUMNS = ["file", "status", "clusters", "steps", "seconds", "peak_mib", "mask_fraction", "objects", "confidence"]
COLUMNS += ["choice", "message", "fingerprint"]
# NIfTI keeps the affine in 32 bits.
OBLIQUE = np.array([[0, -2.5, 0.3, 10], [1.5, 0, 0.1, -20], [0.2, 0.1, 4, 30], [0, 0, 0, 1]], np.float32).astype(float)


class Blank:
    """In the place of a figure, which takes its time."""

    def savefig(self, path, metadata):
        text = PngInfo()
        for key, value in metadata.items():
            text.add_text(key, value)
        Image.new("L", (1, 1)).save(path, pnginfo=text)


@pytest.fixture(autouse=True)
def blank_panels(monkeypatch):
    monkeypatch.setattr("monai_fusenet.results.image.draw_panels", lambda rows, titles: Blank())


class Scripted:
    """Scores that follow brightness: three clusters, dark, middle and bright; and the record of a fit."""

    def __call__(self, image, network):
        grey = image.mean(dim=1) / image.max()
        self.record = [FitRecord(steps=11, clusters=3, seconds=1.0, augmented=torch.rand(3, *image.shape[2:]))]
        return torch.stack([-grey.abs(), -(grey - 0.5).abs(), -(grey - 1).abs()], dim=1)


class OneHot:
    """So many clusters, one pixel each, row by row, and the last for the rest."""

    def __init__(self, count):
        self.count = count

    def __call__(self, image, network):
        labels = torch.arange(image[0, 0].numel()).clamp(max=self.count - 1).reshape(image.shape[2:])
        return nn.functional.one_hot(labels, self.count).movedim(-1, 0).unsqueeze(0).float()


def region(score, chosen=False):
    return Region(score, fraction=0.1, centre=0.2, border=0.0, contrast=0.5, chosen=chosen)


def draw_object(shape):
    """Dark ground (10), a grey frame (120) around a bright box (250), the smallest of the three."""
    image = np.full(shape, 10, dtype=np.uint8)
    image[tuple(slice(side // 4, side - side // 4) for side in shape)] = 120
    image[tuple(slice(2 * side // 5, side - 2 * side // 5) for side in shape)] = 250
    return image


def write_pictures(folder, names=("a", "b", "c"), shape=(24, 17)):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(draw_object(shape)).save(folder / f"{name}.png")
    return [{"image": str(folder / f"{name}.png"), "file": f"{name}.png", "name": name} for name in names]


def mask_of_the_third_cluster(sample):
    clusters = sample["clusters"]
    mask = MetaTensor((clusters.as_tensor() == 3).to(torch.uint8), meta=clusters.meta)
    return {**sample, "pred": mask, "regions": [region(0.25, chosen=True), region(0.031), region(0.002)]}


def run(items, output_dir, inferer=None, working_size=None, choose=mask_of_the_third_cluster, **options):
    """A pass through a folder; returns the rows of the summary."""
    writer = ResultWriter(items, output_dir, **options)
    preprocessing = [LoadMedicalImaged("image"), CopyItemsd("image", names="original")]
    if working_size:
        preprocessing.append(Resized("image", working_size))
    evaluator = FolderEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(ForgivingDataset(writer.pending, Compose(preprocessing)), batch_size=1),
        network=nn.Identity(),
        inferer=inferer or Scripted(),
        postprocessing=Compose([CopyItemsd("pred", names="scores"), ScoresToClustersd("scores"), choose]),
        val_handlers=[writer],
    )
    evaluator.run()
    writer.write_summary()
    return read_summary(output_dir)


def read_summary(output_dir):
    with (output_dir / "summary.csv").open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        rows = list(table)
    assert table.fieldnames == COLUMNS
    return rows


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What lies in the folder.


def test_three_files_for_each_image_and_one_summary(tmp_path):
    items = write_pictures(tmp_path / "images")
    run(items, tmp_path / "out")
    expected = [f"{name}_{kind}.png" for name in "abc" for kind in ("clusters", "mask", "panel")]
    assert names(tmp_path / "out") == [*expected, "summary.csv"]


def test_the_panel_is_a_picture_of_four_columns(tmp_path, monkeypatch):
    monkeypatch.undo()
    run(write_pictures(tmp_path / "images", names=["a"]), tmp_path / "out")
    with Image.open(tmp_path / "out" / "a_panel.png") as panel:
        assert panel.width == 1200
        assert np.asarray(panel.convert("L")).std() > 20


@pytest.mark.parametrize("working_size", [None, (12, 15)])
def test_pictures_have_the_grid_of_the_image(tmp_path, working_size):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out", working_size=working_size)
    with Image.open(tmp_path / "out" / "a_clusters.png") as file:
        assert (file.mode, file.size) == ("L", (17, 24))
        clusters = np.asarray(file)
    with Image.open(tmp_path / "out" / "a_mask.png") as file:
        assert (file.mode, file.size) == ("L", (17, 24))
        mask = np.asarray(file)
    assert set(np.unique(clusters)) == {1, 2, 3}
    assert set(np.unique(mask)) == {0, 255}
    if working_size is None:
        image = draw_object((24, 17))
        by_size = np.argsort(-np.bincount(image.ravel())[[10, 120, 250]])
        for label, value in enumerate(np.array([10, 120, 250])[by_size], start=1):
            np.testing.assert_array_equal(clusters == label, image == value)
        np.testing.assert_array_equal(mask == 255, image == 250)


@pytest.mark.parametrize("working_size", [None, (8, 6, 5)])
def test_volumes_have_the_grid_and_the_affine_of_the_file(tmp_path, working_size):
    volume = draw_object((12, 9, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, OBLIQUE), tmp_path / "brain.nii.gz")
    items = [{"image": str(tmp_path / "brain.nii.gz"), "file": "brain.nii.gz", "name": "brain"}]
    rows = run(items, tmp_path / "out", working_size=working_size)
    assert rows[0]["status"] == "ok"
    assert names(tmp_path / "out") == ["brain_clusters.nii.gz", "brain_mask.nii.gz", "brain_panel.png", "summary.csv"]
    source = nib.load(tmp_path / "brain.nii.gz")
    for kind, values in (("clusters", {1, 2, 3}), ("mask", {0, 1})):
        result = nib.load(tmp_path / "out" / f"brain_{kind}.nii.gz")
        assert result.shape == (12, 9, 7)
        assert result.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(result.affine, source.affine)
        assert set(np.unique(result.dataobj)) == values
    if working_size is None:
        np.testing.assert_array_equal(np.asarray(result.dataobj) == 1, volume == 250)


@pytest.mark.parametrize("shape", [(12, 9, 1), (12, 1, 9), (1, 12, 9)])
def test_a_single_slice_gets_its_axis_back(tmp_path, shape):
    plane = draw_object((12, 9))
    nib.save(nib.Nifti1Image(plane.reshape(shape), OBLIQUE), tmp_path / "slice.nii")
    items = [{"image": str(tmp_path / "slice.nii"), "file": "slice.nii", "name": "slice"}]
    run(items, tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "slice_mask.nii.gz")
    assert mask.shape == shape
    np.testing.assert_array_equal(mask.affine, nib.load(tmp_path / "slice.nii").affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).reshape(12, 9) == 1, plane == 250)


def test_more_than_255_clusters_need_16_bits(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"], shape=(24, 17))
    rows = run(items, tmp_path / "out", inferer=OneHot(300))
    assert rows[0]["clusters"] == "300"
    with Image.open(tmp_path / "out" / "a_clusters.png") as file:
        assert file.mode == "I;16"
        clusters = np.asarray(file)
    assert clusters.dtype == np.uint16
    # 108 pixels of the last one come first, then one pixel each, row by row.
    expected = np.arange(24 * 17) + 2
    expected[299:] = 1
    np.testing.assert_array_equal(clusters, expected.reshape(24, 17))


def test_results_can_be_loaded_again(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out", inferer=OneHot(300))
    assert load_image(tmp_path / "out" / "a_clusters.png").max() == 300
    assert result_path(tmp_path / "out", "a", "mask") == tmp_path / "out" / "a_mask.png"
    assert result_path(tmp_path / "out", "b", "mask") is None
    assert result_path(tmp_path / "nowhere", "a", "mask") is None


# One label map.


def labels_of(array, has_geometry, affine=OBLIQUE):
    grid = array.shape
    meta = {"has_geometry": has_geometry, "grid_shape": np.array(grid), "original_affine": affine}
    return MetaTensor(torch.as_tensor(array).unsqueeze(0), meta=meta)


@pytest.mark.parametrize(
    ("top", "mode", "dtype"), [(255, "L", np.uint8), (256, "I;16", np.uint16), (65535, "I;16", np.uint16)]
)
def test_label_maps_take_the_bits_they_need(tmp_path, top, mode, dtype):
    array = np.array([[0, 1, 2], [3, 4, top]], dtype=np.int32)
    path = write_label_map(labels_of(array, has_geometry=False), tmp_path, "a")
    assert path == tmp_path / "a.png"
    with Image.open(path) as file:
        assert file.mode == mode
        np.testing.assert_array_equal(np.asarray(file), array)
    path = write_label_map(labels_of(array, has_geometry=True), tmp_path, "a")
    assert path == tmp_path / "a.nii.gz"
    image = nib.load(path)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_array_equal(image.affine, OBLIQUE)


def test_a_mask_is_made_visible_in_a_picture_only(tmp_path):
    array = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    path = write_label_map(labels_of(array, has_geometry=False), tmp_path, "a", foreground=255)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array * 255)
    path = write_label_map(labels_of(array, has_geometry=True), tmp_path, "a", foreground=255)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), array)


def test_classes_are_written_as_they_are_called(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("monai_fusenet.results.image.draw_panels", lambda rows, titles: shown.extend(rows) or Blank())

    def classes_of_two_clusters(sample):
        clusters = sample["clusters"]
        values = torch.tensor([0, 0, 1, 300], dtype=torch.int32)[clusters.as_tensor().long()]
        values[..., 0] = 0
        # An image may lack some classes: the first of them alone is no mask to be made visible.
        values[values == 300] *= sample["original"].shape[-1] == 17
        return {**sample, "pred": MetaTensor(values, meta=clusters.meta), "classes": (1, 7, 300)}

    items = write_pictures(tmp_path / "images", names=["a"])
    items += [{**item, "name": "b"} for item in write_pictures(tmp_path / "images", ["b"], (24, 18))]
    rows = run(items, tmp_path / "out", choose=classes_of_two_clusters)
    for name, values, places, mode in (("a", {0, 1, 300}, {0, 1, 3}, "I;16"), ("b", {0, 1}, {0, 1}, "L")):
        with Image.open(tmp_path / "out" / f"{name}_mask.png") as file:
            assert file.mode == mode
            assert set(np.unique(file)) == values
            row = rows[0 if name == "a" else 1]
            assert float(row["mask_fraction"]) == pytest.approx((np.asarray(file) > 0).mean(), abs=1e-4)
        assert set(np.unique(shown.pop(0).mask)) == places


# Objects.


def two_objects(sample):
    """The left and the right half of the mask, though they touch."""
    sample = mask_of_the_third_cluster(sample)
    mask = sample["pred"]
    right = torch.arange(mask.shape[-1]) >= mask.shape[-1] // 2
    return {**sample, "objects": MetaTensor((mask * (1 + right)).to(torch.int32), meta=mask.meta)}


def many_objects(sample):
    sample = mask_of_the_third_cluster(sample)
    numbers = torch.arange(sample["pred"].numel(), dtype=torch.int32).reshape(sample["pred"].shape) * 700
    return {**sample, "objects": MetaTensor(numbers, meta=sample["pred"].meta)}


def test_objects_lie_beside_the_mask_and_are_counted(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    (row,) = run(items, tmp_path / "out", choose=two_objects)
    assert row["objects"] == "2"
    assert names(tmp_path / "out") == [
        *(f"a_{kind}.png" for kind in ("clusters", "mask", "objects", "panel")),
        "summary.csv",
    ]
    mask, objects = (np.asarray(Image.open(tmp_path / "out" / f"a_{kind}.png")) for kind in ("mask", "objects"))
    assert objects.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(objects), [0, 1, 2])
    np.testing.assert_array_equal(objects > 0, mask > 0)


def test_objects_of_a_volume_lie_on_its_grid(tmp_path):
    nib.save(nib.Nifti1Image(draw_object((12, 9, 14)), OBLIQUE), tmp_path / "a.nii.gz")
    items = [{"image": str(tmp_path / "a.nii.gz"), "file": "a.nii.gz", "name": "a"}]
    run(items, tmp_path / "out", choose=many_objects)
    file = nib.load(tmp_path / "out" / "a_objects.nii.gz")
    assert file.get_data_dtype() == np.uint32  # up to 700 * 1511
    np.testing.assert_array_equal(np.asarray(file.dataobj).ravel(), np.arange(12 * 9 * 14) * 700)
    np.testing.assert_allclose(file.affine, OBLIQUE)


def test_more_objects_than_a_png_holds_go_to_a_tiff(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    (row,) = run(items, tmp_path / "out", choose=many_objects)
    assert row["objects"] == str(700 * (24 * 17 - 1))
    objects = tifffile.imread(tmp_path / "out" / "a_objects.tif")
    np.testing.assert_array_equal(objects.ravel(), np.arange(24 * 17) * 700)
    assert load_image(tmp_path / "out" / "a_objects.tif").max().item() == 700 * (24 * 17 - 1)
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out").pending] == []
    run(items, tmp_path / "out", choose=two_objects, overwrite=True)
    assert "a_objects.tif" not in names(tmp_path / "out")
    assert "a_objects.png" in names(tmp_path / "out")


def test_lost_objects_are_made_again_and_old_ones_do_not_stay(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a", "b"])
    first = run(items, tmp_path / "out", choose=two_objects)
    (tmp_path / "out" / "b_objects.png").unlink()
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out").pending] == ["b"]
    again = run(items, tmp_path / "out", choose=two_objects)
    assert [(row["status"], row["objects"]) for row in again] == [("kept", "2"), ("ok", "2")]
    assert first[0]["objects"] == "2"
    without = run(items, tmp_path / "out", overwrite=True)
    assert [row["objects"] for row in without] == ["", ""]
    assert not list((tmp_path / "out").glob("*_objects.*"))
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out").pending] == []


def test_the_panel_outlines_each_object(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("monai_fusenet.results.image.draw_panels", lambda rows, titles: shown.extend(rows) or Blank())
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "one", choose=mask_of_the_third_cluster)
    run(items, tmp_path / "two", choose=two_objects)
    assert [connected_components(row.mask)[1] for row in shown] == [1, 2]
    assert shown[1].note.startswith("2 objects, chosen 0.25\ncontrast")
    assert not (shown[1].mask & ~shown[0].mask).any()


# The summary.


def test_a_row_for_each_image(tmp_path):
    items = write_pictures(tmp_path / "images", names=["c", "a", "b"])
    rows = run(items, tmp_path / "out")
    assert [row["file"] for row in rows] == ["c.png", "a.png", "b.png"]  # the order of the folder
    fraction = (draw_object((24, 17)) == 250).mean()
    for row in rows:
        assert re.fullmatch(r"\d+\.\d\d", row.pop("seconds"))
        assert 100 < int(row.pop("peak_mib")) <= peak_memory() + 1  # rounded
        assert row.pop("file") in ("a.png", "b.png", "c.png")
        assert re.fullmatch(r"[0-9a-f]{64}", row.pop("fingerprint"))
        assert row == {
            "status": "ok",
            "clusters": "3",
            "steps": "11",
            "mask_fraction": f"{fraction:.4f}",
            "objects": "",
            "confidence": "",
            "choice": "chosen 0.25; contrast 0.5, centre 0.2, border 0; rejected 0.031, 0.002",
            "message": "",
        }


@pytest.mark.parametrize(("confidence", "cell"), [(None, ""), (0.12345, "0.123"), (1.0, "1.000")])
def test_how_sure_a_mask_is_stands_in_the_summary(tmp_path, confidence, cell):
    items = write_pictures(tmp_path / "images", names=["a"])
    rows = run(
        items, tmp_path / "out", choose=lambda sample: {**mask_of_the_third_cluster(sample), "confidence": confidence}
    )
    assert rows[0]["confidence"] == cell
    kept = run(items, tmp_path / "out")
    assert (kept[0]["status"], kept[0]["confidence"]) == ("kept", cell)


def test_the_panel_says_how_sure_a_mask_is():
    mask = MetaTensor(torch.ones(1, 4, 5, dtype=torch.uint8))
    result = ImageResult(np.zeros((1, 4, 5)), mask, mask, regions=[region(0.25, chosen=True)], confidence=0.875)
    assert result.panel_row().note == "chosen 0.25\ncontrast 0.5, centre 0.2, border 0\nconfidence 0.88"
    assert result._replace(regions=None).panel_row().note == "confidence 0.88"
    assert result._replace(regions=None, confidence=None).panel_row().note == ""


def test_an_inferer_without_a_record_took_no_steps(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    assert run(items, tmp_path / "out", inferer=OneHot(5))[0]["steps"] == "0"


def test_what_is_odd_about_a_result(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    assert run(items, tmp_path / "one", inferer=OneHot(1))[0]["message"] == "collapsed: one cluster"
    row = run(items, tmp_path / "none", inferer=OneHot(2))[0]
    assert (row["message"], row["mask_fraction"]) == ("empty mask", "0.0000")


def test_fewer_objects_than_asked_for(tmp_path):
    def want_two(sample):
        return {**mask_of_the_third_cluster(sample), "objects_wanted": 2}

    items = write_pictures(tmp_path / "images", names=["a"])
    assert run(items, tmp_path / "out", choose=want_two)[0]["message"] == "1 of 2 objects found"


class Refitted(Scripted):
    def __call__(self, image, network):
        scores = super().__call__(image, network)
        self.record = [replace(self.record[0], refits=2)]
        return scores


def test_an_image_that_was_fitted_again_says_so(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    (row,) = run(items, tmp_path / "out", inferer=Refitted())
    assert row["message"] == "fitted 3 times, as all of it had become one cluster"


def test_a_choice_in_a_few_words():
    chosen = [region(score, chosen=True) for score in (0.5, 0.4, 0.3, 0.25, 0.2)]
    rejected = [region(score) for score in (0.1, 0.01, 0.001, 0.0001)]
    rejected[1] = rejected[1]._replace(overlaps=True)
    why = "contrast 0.5, centre 0.2, border 0"
    assert (
        describe_choice([*chosen, *rejected])
        == f"chosen 0.5, 0.4, 0.3 and 2 more; {why}; rejected 0.1, 0.01*, 0.001 and 1 more"
    )
    assert describe_choice(chosen[:1]) == f"chosen 0.5; {why}"
    assert describe_choice([]) == "no candidate"


def test_the_choice_stands_on_the_panel(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(
        "monai_fusenet.results.image.draw_panels", lambda rows, titles: notes.append(rows[0].note) or Blank()
    )
    run(write_pictures(tmp_path / "images", names=["a"]), tmp_path / "out")
    assert notes == ["chosen 0.25\ncontrast 0.5, centre 0.2, border 0\nrejected 0.031, 0.002"]


def test_a_system_that_does_not_tell_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_fusenet.utils.memory.resource", None)
    assert run(write_pictures(tmp_path / "images", names=["a"]), tmp_path / "out")[0]["peak_mib"] == ""


def test_the_summary_grows_with_each_image(tmp_path):
    items = write_pictures(tmp_path / "images")
    seen = []

    class Watching(Scripted):
        def __call__(self, image, network):
            summary = tmp_path / "out" / "summary.csv"
            seen.append([row["file"] for row in read_summary(tmp_path / "out")] if summary.exists() else None)
            return super().__call__(image, network)

    run(items, tmp_path / "out", inferer=Watching())
    assert seen == [[], ["a.png"], ["a.png", "b.png"]]


def test_names_that_need_quotes(tmp_path):
    items = write_pictures(tmp_path / "images", names=['größe, "1"'])
    assert run(items, tmp_path / "out")[0]["file"] == 'größe, "1".png'


# What fails.


def test_an_image_that_cannot_be_read(tmp_path):
    items = write_pictures(tmp_path / "images")
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    rows = run(items, tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1] == {
        **dict.fromkeys(COLUMNS, ""),
        "file": "b.png",
        "status": "failed",
        "message": f"cannot read {tmp_path / 'images' / 'b.png'}: not an image, or damaged",
    }
    assert not list((tmp_path / "out").glob("b_*"))


def test_an_image_that_cannot_be_fitted(tmp_path, caplog):
    items = write_pictures(tmp_path / "images")

    class Failing(Scripted):
        calls = 0

        def __call__(self, image, network):
            Failing.calls += 1
            if Failing.calls == 2:
                raise ValueError("the fit diverged")
            return super().__call__(image, network)

    rows = run(items, tmp_path / "out", inferer=Failing())
    assert [(row["status"], row["message"]) for row in rows] == [("ok", ""), ("failed", "the fit diverged"), ("ok", "")]
    assert "b.png failed: the fit diverged" in caplog.text


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free space there"),
        (errno.EDQUOT, "Disk quota exceeded; free space there"),
        (errno.EFBIG, "File too large; raise the limit on the size of files"),
        (errno.EROFS, "Read-only file system; make the folder writable"),
        (errno.EACCES, "Permission denied; make the folder writable"),
    ],
)
def test_a_disk_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch, number, remedy):
    items = write_pictures(tmp_path / "images")
    genuine, saves, fits = Image.Image.save, [], []

    def save(picture, path, *args, **kwargs):
        saves.append(path)
        genuine(picture, path, *args, **kwargs)
        if len(saves) == 5:  # the mask of the second image: its clusters, and all of the first, came before
            raise OSError(number, os.strerror(number))

    class Counting(Scripted):
        def __call__(self, image, network):
            fits.append(image)
            return super().__call__(image, network)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(CannotWriteError) as caught:
        run(items, tmp_path / "out", inferer=Counting())
    assert str(caught.value) == f"cannot write b_mask.png into {tmp_path / 'out'}: {remedy}, or choose another folder"
    assert len(fits) == 2  # the third image is not fitted in vain
    # Nothing half written, and no panel, which would say that the image is finished.
    kept = ["a_clusters.png", "a_mask.png", "a_panel.png", "b_clusters.png", "summary.csv"]
    assert names(tmp_path / "out") == kept
    monkeypatch.undo()
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out").pending] == ["b", "c"]


def test_an_error_of_one_file_alone_does_not_end_the_run(tmp_path):
    items = write_pictures(tmp_path / "images")
    (tmp_path / "out" / "b_mask.png").mkdir(parents=True)
    rows = run(items, tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert "Is a directory" in rows[1]["message"]


class Meanwhile(Scripted):
    """Does something to the file of the second image while it is fitted."""

    def __init__(self, change):
        self.change = change
        self.fits = 0

    def __call__(self, image, network):
        self.fits += 1
        if self.fits == 2:
            self.change()
        return super().__call__(image, network)


@pytest.mark.parametrize("change", ["other pixels", "gone"])
def test_a_file_that_changes_under_the_fit_gets_no_result(tmp_path, change):
    items = write_pictures(tmp_path / "images")
    path = tmp_path / "images" / "b.png"
    other = Image.fromarray(255 - draw_object((24, 17)))
    rows = run(items, tmp_path / "out", Meanwhile(path.unlink if change == "gone" else lambda: other.save(path)))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["message"] == "the file has changed since it was read; run again"
    assert [name for name in names(tmp_path / "out") if name.startswith("b")] == []
    if change != "gone":
        assert [row["status"] for row in run(items, tmp_path / "out")] == ["kept", "ok", "kept"]


def test_a_slice_of_a_series_that_changes_counts_too(tmp_path):
    items = write_pictures(tmp_path / "images")
    items[1]["image"] = [items[1]["image"], items[2]["image"]]  # stacked as channels
    other = Image.fromarray(255 - draw_object((24, 17)))
    rows = run(items, tmp_path / "out", Meanwhile(lambda: other.save(tmp_path / "images" / "c.png")))
    assert rows[1]["message"] == "the file has changed since it was read; run again"


def test_a_smaller_fit_for_want_of_memory_is_told(tmp_path):
    class Limited(Scripted):
        def __call__(self, image, network):
            scores = super().__call__(image, network)
            self.record = [replace(self.record[0], size=(64, 45), wanted_size=(128, 90))]
            return scores

    (row,) = run(write_pictures(tmp_path / "images", names=["a"]), tmp_path / "out", Limited())
    assert (row["status"], row["message"]) == ("ok", "fitted at 64 x 45, as memory did not suffice for 128 x 90")


def test_counts(tmp_path):
    items = write_pictures(tmp_path / "images")
    (tmp_path / "images" / "b.png").write_bytes(b"")
    run(items[:1], tmp_path / "out")
    writer = ResultWriter(items, tmp_path / "out")
    assert dict(writer.counts()) == {"kept": 1}
    run(items, tmp_path / "out")
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["kept", "failed", "ok"]


# A second pass.


def test_finished_images_are_kept(tmp_path):
    items = write_pictures(tmp_path / "images")
    first = run(items, tmp_path / "out")
    files = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}

    class Never:
        def __call__(self, image, network):
            raise AssertionError("there is nothing to do")

    second = run(items, tmp_path / "out", inferer=Never())
    assert second == [{**row, "status": "kept"} for row in first]
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == files


@pytest.mark.parametrize("lost", ["b_mask.png", "b_clusters.png"])
def test_an_unfinished_image_is_done_again(tmp_path, lost):
    items = write_pictures(tmp_path / "images")
    run(items, tmp_path / "out")
    (tmp_path / "out" / lost).unlink()
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out").pending] == ["b"]
    assert [row["status"] for row in run(items, tmp_path / "out")] == ["kept", "ok", "kept"]
    assert (tmp_path / "out" / lost).is_file()


def test_a_lost_panel_costs_no_fit(tmp_path):
    items = write_pictures(tmp_path / "images")
    run(items, tmp_path / "out")
    (tmp_path / "out" / "b_panel.png").unlink()
    assert ResultWriter(items, tmp_path / "out").pending == []
    assert ResultWriter(items, tmp_path / "out", settings={"seed": 1}).conflicts == ["a.png", "b.png", "c.png"]


def test_a_failed_image_is_tried_again(tmp_path):
    items = write_pictures(tmp_path / "images")
    good = (tmp_path / "images" / "b.png").read_bytes()
    (tmp_path / "images" / "b.png").write_bytes(b"")
    run(items, tmp_path / "out")
    (tmp_path / "images" / "b.png").write_bytes(good)
    rows = run(items, tmp_path / "out")
    assert [(row["status"], row["message"]) for row in rows] == [("kept", ""), ("ok", ""), ("kept", "")]


def test_overwrite_does_all_anew(tmp_path):
    items = write_pictures(tmp_path / "images")
    run(items, tmp_path / "out")
    rows = run(items, tmp_path / "out", inferer=OneHot(5), overwrite=True)
    assert [(row["status"], row["clusters"]) for row in rows] == [("ok", "5")] * 3


def test_images_that_came_later_take_their_place(tmp_path):
    items = write_pictures(tmp_path / "images")
    run(items[1:], tmp_path / "out")
    rows = run(items, tmp_path / "out")
    assert [(row["file"], row["status"]) for row in rows] == [("a.png", "ok"), ("b.png", "kept"), ("c.png", "kept")]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"some,other,table\n1,2,3\n"])
def test_a_lost_or_foreign_summary_does_not_lose_results(tmp_path, content):
    items = write_pictures(tmp_path / "images", names=["a", "b"])
    run(items, tmp_path / "out")
    (tmp_path / "out" / "summary.csv").unlink()
    if content is not None:
        (tmp_path / "out" / "summary.csv").write_bytes(content)
    rows = run(items, tmp_path / "out")
    assert [(row["file"], row["status"], row["clusters"]) for row in rows] == [
        ("a.png", "kept", ""),
        ("b.png", "kept", ""),
    ]


def test_a_writer_writes_nothing_before_it_must(tmp_path):
    items = write_pictures(tmp_path / "images")
    ResultWriter(items, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path / "images")  # nor does it read the images
    assert len(ResultWriter(items, tmp_path / "out").pending) == 3


# Whose results they are.


def test_results_of_another_image_are_not_taken_for_these(tmp_path):
    items = write_pictures(tmp_path / "images")
    run(items, tmp_path / "out")
    Image.fromarray(255 - draw_object((24, 17))).save(tmp_path / "images" / "b.png")
    writer = ResultWriter(items, tmp_path / "out")
    assert writer.conflicts == ["b.png"]
    assert writer.pending == []
    assert ResultWriter(items, tmp_path / "out", overwrite=True).conflicts == []


def test_results_of_other_settings_are_not_taken_for_these(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out", settings={"seed": 0, "inferer": {"steps": 2}})
    assert ResultWriter(items, tmp_path / "out", settings={"inferer": {"steps": 2}, "seed": 0}).conflicts == []
    assert ResultWriter(items, tmp_path / "out", settings={"inferer": {"steps": 3}, "seed": 0}).conflicts == ["a.png"]


def test_a_run_that_dies_while_it_overwrites_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out", settings={"seed": 0})

    def die(rows, titles):
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_fusenet.results.image.draw_panels", die)
    with pytest.raises(KeyboardInterrupt):
        run(items, tmp_path / "out", settings={"seed": 1}, overwrite=True)
    assert [item["name"] for item in ResultWriter(items, tmp_path / "out", settings={"seed": 0}).pending] == ["a"]


def test_parts_that_killed_ranks_have_left_are_taken_up(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a", "b"])
    run(items, tmp_path / "out")
    (tmp_path / "out" / "summary.csv").rename(tmp_path / "out" / "summary.part1.csv")
    rows = run(items, tmp_path / "out")
    assert [(row["file"], row["status"], row["clusters"]) for row in rows] == [
        ("a.png", "kept", "3"),
        ("b.png", "kept", "3"),
    ]
    assert not list((tmp_path / "out").glob("summary.part*"))


def test_rows_of_another_folder_stay(tmp_path):
    run(write_pictures(tmp_path / "first", names=["a", "b"]), tmp_path / "out")
    rows = run(write_pictures(tmp_path / "second", names=["c"]), tmp_path / "out")
    assert [(row["file"], row["status"]) for row in rows] == [("c.png", "ok"), ("a.png", "ok"), ("b.png", "ok")]
    writer = ResultWriter(write_pictures(tmp_path / "second", names=["c"]), tmp_path / "out")
    assert writer.counts() == {"kept": 1}


def test_a_message_is_added_to_those_of_an_image(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out")
    writer = ResultWriter(items, tmp_path / "out")
    writer.add_messages([("a.png", "first"), ("a.png", "second"), ("b.png", "of no row")])
    assert [row["message"] for row in read_summary(tmp_path / "out")] == ["first; second"]


def test_rows_stand_in_the_order_in_which_images_are_finished_and_at_the_end_in_that_of_the_folder(tmp_path):
    summary = Summary(tmp_path, ["a.png", "b.png", "c.png"], {}, [{"file": "elsewhere.png", "status": "ok"}])
    for file in ("c.png", "a.png"):
        summary.add({"file": file, "status": "ok"})
    assert [row["file"] for row in read_summary(tmp_path)] == ["c.png", "elsewhere.png", "a.png"]
    summary.add({"file": "c.png", "status": "failed"})  # of two rows the later counts
    assert summary.counts() == {"ok": 1, "failed": 1}
    assert read_summary_and_parts(tmp_path)["c.png"]["status"] == "failed"
    summary.write()
    assert [row["file"] for row in read_summary(tmp_path)] == ["a.png", "c.png", "elsewhere.png"]


def test_half_a_row_is_no_row(tmp_path, monkeypatch):
    summary = Summary(tmp_path, ["a.png", "b.png"], {})
    summary.add({"file": "a.png", "status": "ok"})
    whole = (tmp_path / "summary.csv").read_bytes()
    (tmp_path / "summary.csv").write_bytes(whole + b"b.p")  # what a power cut leaves
    assert list(read_summary_and_parts(tmp_path)) == ["a.png"]
    summary.write()

    class Full(io.FileIO):  # a disk that takes a part of it
        def write(self, content):
            return super().write(content[:5])

    monkeypatch.setattr(Path, "open", lambda path, *args, **options: Full(path, "a"))
    with pytest.raises(CannotWriteError) as caught:
        summary.add({"file": "b.png", "status": "ok"})
    monkeypatch.undo()
    where = f"cannot write summary.csv into {tmp_path}: No space left on device"
    assert str(caught.value) == f"{where}; free space there, or choose another folder"
    assert (tmp_path / "summary.csv").read_bytes() == whole


@pytest.mark.parametrize(("panels", "drawn"), [("all", "abc"), ("some", "ab"), ("none", "")])
def test_panels_of_all_of_the_first_and_the_doubtful_or_of_none(tmp_path, monkeypatch, panels, drawn):
    monkeypatch.setattr("monai_fusenet.handlers.results.FIRST_PANELS", 1)
    items = write_pictures(tmp_path / "images")
    sure = iter([0.9, 0.69, 0.7])

    def choose(sample):
        return {**mask_of_the_third_cluster(sample), "confidence": next(sure)}

    run(items, tmp_path / "out", choose=choose, panels=panels)
    assert sorted(path.name for path in (tmp_path / "out").glob("*_panel.png")) == [
        f"{name}_panel.png" for name in drawn
    ]
    writer = ResultWriter(items, tmp_path / "out")
    assert writer.pending == []  # what is finished is told by the summary
    assert writer.conflicts == []
    assert ResultWriter(items, tmp_path / "out", settings={"seed": 1}).conflicts == ["a.png", "b.png", "c.png"]


def test_an_odd_mask_gets_a_panel(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_fusenet.handlers.results.FIRST_PANELS", 0)

    def choose(sample):
        sample = mask_of_the_third_cluster(sample)
        empty = "b.png" in sample["pred"].meta["filename_or_obj"]
        return {**sample, "pred": sample["pred"] * (not empty)}

    run(write_pictures(tmp_path / "images"), tmp_path / "out", choose=choose)
    assert [path.name for path in (tmp_path / "out").glob("*_panel.png")] == ["b_panel.png"]


def test_panels_must_be_said_in_a_word(tmp_path):
    with pytest.raises(ValueError, match=r'^panels must be "all", "some" or "none", got True$'):
        ResultWriter([], tmp_path, panels=True)


def test_an_earlier_panel_goes_with_its_results(tmp_path):
    items = write_pictures(tmp_path / "images", names=["a"])
    run(items, tmp_path / "out")
    run(items, tmp_path / "out", inferer=OneHot(5), overwrite=True, panels="none")
    assert names(tmp_path / "out") == ["a_clusters.png", "a_mask.png", "summary.csv"]


def test_results_of_an_image_of_another_folder_with_the_same_name_are_not_taken_for_these(tmp_path):
    first, second = write_pictures(tmp_path / "one", names=["a"]), write_pictures(tmp_path / "two", names=["a"])
    Image.fromarray(255 - draw_object((24, 17))).save(tmp_path / "two" / "a.bmp")
    second = [{"image": str(tmp_path / "two" / "a.bmp"), "file": "a.bmp", "name": "a"}]
    run(first, tmp_path / "out", panels="none")
    assert ResultWriter(second, tmp_path / "out", panels="none").conflicts == ["a.bmp"]
    run(second, tmp_path / "out", panels="none", overwrite=True)
    assert [row["file"] for row in read_summary(tmp_path / "out")] == ["a.bmp"]
    assert ResultWriter(first, tmp_path / "out", panels="none").conflicts == ["a.png"]
    moved = [{**second[0], "file": "images/a.bmp"}]  # the same image, seen from the folder above
    assert [row["status"] for row in run(moved, tmp_path / "out", panels="none")] == ["kept"]
