"""The distillation workflow: what it leaves, that it resumes, and that labels never reach it."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_tools import ENVIRONMENT, SMALL, call, copy_with_masks, draw_folder, export_torchscript, hear, read_summary
from monai.bundle import ConfigParser, create_workflow, verify_net_in_out
from PIL import Image
from test_configs import METADATA_KEYS, components

import monai_fusenet
from monai_fusenet.losses import NoisyMaskLoss
from monai_fusenet.transforms import split_objects

SMALL_STUDENT = {
    **SMALL,
    "student_def#features": [4, 4, 4, 4, 4, 4],
    "student_size": [32, 32],
    "teacher_seeds": [0],
    "rounds": 2,
    "round_steps": 3,
    "batch_size": 2,
    "agreement": 1.0,
}


def distil(folder, output, *overlays, **options):
    return call("distillation", *overlays, dataset_dir=folder, output_dir=output, **{**SMALL_STUDENT, **options})


def weights(output):
    return torch.load(output / "model" / "models" / "model.pt", weights_only=True)


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def read_rounds(output):
    with (output / "rounds.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder of images with masks, and what a distillation left."""
    base = tmp_path_factory.mktemp("distillation")
    folder = draw_folder(base / "data")
    assert distil(folder, base / "out") == 0
    return folder, base / "out"


def test_what_a_distillation_leaves(done):
    output = done[1]
    assert {path.name for path in output.iterdir()} == {"teacher", "rounds", "rounds.csv", "model", "masks"}
    assert {path.name for path in (output / "teacher").iterdir()} == {"seed_0", "classical"}
    for folder in (output / "teacher" / "seed_0", output / "teacher" / "classical", output / "masks"):
        assert [row["status"] for row in read_summary(folder)] == ["ok"] * 3
        for index in range(3):
            mask = Image.open(folder / f"scan{index}_mask.png")
            assert mask.size == Image.open(done[0] / "images" / f"scan{index}.png").size
    for row in read_summary(output / "masks"):
        assert 0 < float(row["confidence"]) <= 1 if float(row["mask_fraction"]) else row["confidence"] == ""
    # Teachers do not vote: they are to be compared with each other.
    assert [row["confidence"] for row in read_summary(output / "teacher" / "seed_0")] == [""] * 3
    rounds = read_rounds(output)
    assert [row["round"] for row in rounds] == ["1", "2"]
    assert all(row["images"] == "3" and 0 <= float(row["agreement"]) <= 1 for row in rounds)


def test_the_student_and_its_bundle_write_objects(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    assert distil(done[0], tmp_path / "out", split_objects=True) == 0  # no round is trained anew
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))
    masks = tmp_path / "out" / "masks"
    assert [row["status"] for row in read_summary(masks)] == ["ok"] * 3
    for index in range(3):
        mask, objects = (np.asarray(Image.open(masks / f"scan{index}_{kind}.png")) for kind in ("mask", "objects"))
        np.testing.assert_array_equal(objects, split_objects(mask))
    assert not list((tmp_path / "out" / "teacher").rglob("*_objects.*"))
    config = tmp_path / "out" / "model" / "configs" / "inference.json"
    assert json.loads(config.read_text())["split_objects"] is True
    assert call("inference", config=config, dataset_dir=done[0], output_dir=tmp_path / "again") == 0
    for path in masks.glob("*_objects.png"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_k_means_alone_may_teach(done, tmp_path):
    assert distil(done[0], tmp_path / "out", teacher_seeds=[]) == 0
    assert [path.name for path in (tmp_path / "out" / "teacher").iterdir()] == ["classical"]
    assert [row["status"] for row in read_summary(tmp_path / "out" / "masks")] == ["ok"] * 3
    mask = "teacher/classical/scan0_mask.png"
    assert (tmp_path / "out" / mask).read_bytes() == (done[1] / mask).read_bytes()


@pytest.mark.parametrize("masks", ["absent", "inverted"])
def test_masks_change_no_weight(done, tmp_path, masks):
    copy_with_masks(done[0], tmp_path / "data", masks)
    assert distil(tmp_path / "data", tmp_path / "out") == 0
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_an_interrupted_round_goes_on(done, tmp_path, monkeypatch):
    calls = []
    forward = NoisyMaskLoss.forward

    def power_cut(self, *args):
        calls.append(1)
        if len(calls) == 7:  # in the second epoch of the second round, of two steps each
            raise ValueError("power cut")
        return forward(self, *args)

    monkeypatch.setattr(NoisyMaskLoss, "forward", power_cut)
    assert distil(done[0], tmp_path / "out") == "error: power cut"
    assert not (tmp_path / "out" / "model").exists()
    assert distil(done[0], tmp_path / "out") == 0
    assert len(calls) == 7 + 2  # nothing twice but the step that failed
    assert [row["status"] for row in read_summary(tmp_path / "out" / "teacher" / "seed_0")] == ["kept"] * 3
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_more_rounds_continue(done, tmp_path, caplog):
    hear(caplog)
    assert distil(done[0], tmp_path / "out", rounds=1, logging_file=False) == 0
    assert distil(done[0], tmp_path / "out", logging_file=False) == 0
    assert "a network that sees 3 images memorises them: use more images" in caplog.messages
    assert any(message.startswith("round 2: 3 of 3 images taught, mean agreement ") for message in caplog.messages)
    assert "masks still changed in the last round by more than agreement (1) allows" in caplog.messages
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_rounds_end_when_masks_no_longer_change(done, tmp_path, caplog):
    hear(caplog)
    assert distil(done[0], tmp_path / "out", agreement=0.0, logging_file=False) == 0
    assert len(read_rounds(tmp_path / "out")) == 1
    assert not any("still changed" in message for message in caplog.messages)


def test_another_distillation_is_not_mixed_in(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    rounds, teacher = tmp_path / "out" / "rounds", tmp_path / "out" / "teacher"
    # Said before the teachers begin, whose masks are gone here.
    shutil.rmtree(teacher)
    assert distil(done[0], tmp_path / "out", learning_rate=0.5) == (
        f"error: {rounds} comes from a training with another learning_rate; choose another --output_dir, "
        "or delete that folder to train again: existing teachers' masks are kept"
    )
    assert not teacher.exists()
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))


def test_a_folder_may_move_but_not_grow(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    shutil.copytree(done[0], tmp_path / "moved")
    assert distil(tmp_path / "moved", tmp_path / "out") == 0
    assert_same_weights(weights(tmp_path / "out"), weights(done[1]))
    # A further image is noticed before the teachers begin.
    shutil.copy(tmp_path / "moved/images/scan0.png", tmp_path / "moved/images/scan9.png")
    status = distil(tmp_path / "moved", tmp_path / "out")
    assert status.startswith(f"error: {tmp_path / 'out' / 'rounds'} comes from a training with another images; choose")
    assert not (tmp_path / "out/teacher/seed_0/scan9_mask.png").exists()


def test_a_student_anew_on_the_same_masks(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "rounds")
    masks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "teacher").rglob("*_mask.png")}
    assert distil(done[0], tmp_path / "out", learning_rate=0.05, rounds=1) == 0
    assert masks == {path: path.stat().st_mtime_ns for path in masks}
    assert len(masks) == 6
    trained = weights(tmp_path / "out")
    assert any(not torch.equal(value, trained[name]) for name, value in weights(done[1]).items())


def test_overwriting_leaves_no_round_of_before(done, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    assert distil(done[0], tmp_path / "out", rounds=1, overwrite=True) == 0
    assert [folder.name for folder in (tmp_path / "out" / "rounds").iterdir()] == ["1"]


def run_model(model, folder, output):
    arguments = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(model / "configs/inference.json")]
    arguments += ["--bundle_root", str(model), "--dataset_dir", str(folder), "--output_dir", str(output)]
    return subprocess.run(arguments, cwd=output.parent, env=ENVIRONMENT, capture_output=True, encoding="utf-8")


def test_the_result_is_a_bundle_that_runs(done, tmp_path):
    model = shutil.copytree(done[1] / "model", tmp_path / "model")
    process = run_model(model, done[0], tmp_path / "results")
    assert process.returncode == 0, process.stderr
    for index in range(3):
        name = f"scan{index}_mask.png"
        first, second = (np.asarray(Image.open(path / name)) for path in (tmp_path / "results", done[1] / "masks"))
        assert np.array_equal(first, second)


def test_the_result_is_a_bundle_as_monai_wants_it(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = done[1] / "model"
    assert {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()} >= {
        *("LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.pt"),
    }
    workflow = create_workflow(
        config_file=str(model / "configs" / "inference.json"), workflow_type="infer", dataset_dir=str(done[0])
    )
    assert workflow.check_properties() == []
    metadata = json.loads((model / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert all(metadata[key] for key in METADATA_KEYS)
    assert metadata["version"] == monai_fusenet.__version__
    assert metadata["eval_metrics"] == {}  # those of the bundle that it comes from are not its own
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(model / "configs" / "metadata.json"),
        config_file=str(model / "configs" / "inference.json"),
        device="cpu",
    )
    config = ConfigParser.load_config_file(model / "configs" / "inference.json")
    assert config["nan_value"] is None
    blocks = (config["preprocessing"], config["scaling"])
    own = {one["_target_"] for block in blocks for one in components(block) if "monai_fusenet" in one["_target_"]}
    assert own == {  # no counterpart in MONAI
        *("monai_fusenet.data.LoadMedicalImaged", "monai_fusenet.data.CheckImaged"),
        *("monai_fusenet.data.ToChannelsd", "monai_fusenet.data.ScaleByPercentilesd"),
        *("monai_fusenet.transforms.FieldOfViewd", "monai_fusenet.transforms.CropToFieldd"),
        "monai_fusenet.data.WorkingSized",
    }
    after = {one["_target_"] for one in components(config["postprocessing"]) if "monai_fusenet" in one["_target_"]}
    names = ("ForLabelServerd", "MaskConfidenced", "MaskToObjectsd")
    assert after == {f"monai_fusenet.transforms.{name}" for name in names}


def test_the_result_exports(done, tmp_path):
    model, path = done[1] / "model", tmp_path / "model.ts"
    export_torchscript(model, path)
    image = torch.rand(1, 3, 32, 32)
    parser = ConfigParser(ConfigParser.load_config_file(model / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(weights(done[1]))
    torch.testing.assert_close(torch.jit.load(path)(image), network(image))


def test_presets_shape_teachers_and_student(done, tmp_path):
    assert distil(done[0], tmp_path / "out", "skin.yaml") == 0
    config = ConfigParser.load_config_file(tmp_path / "out" / "model" / "configs" / "inference.json")
    assert config["objects"] == 1
    for index in range(3):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"scan{index}_mask.png"))
        assert mask.shape == np.asarray(Image.open(done[0] / "images" / f"scan{index}.png")).shape[:2]


def test_another_network(done, tmp_path):
    network = {"_target_": "monai.networks.nets.SegResNet", "spatial_dims": "@spatial_dims", "init_filters": 8}
    network |= {"in_channels": "@in_channels", "out_channels": 1}
    options = {name: value for name, value in SMALL_STUDENT.items() if name != "student_def#features"}
    options |= {"student_def": network, "rounds": 1}
    assert call("distillation", dataset_dir=done[0], output_dir=tmp_path / "out", **options) == 0
    assert (tmp_path / "out" / "masks" / "scan2_mask.png").is_file()


def test_volumes(tmp_path):
    (tmp_path / "data").mkdir()
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    for index in range(2):
        volume = np.random.default_rng(index).normal(0, 5, (14, 17, 12 + index)).astype(np.float32)
        volume[4:9, 5:11, 3:8] += 100
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / "data" / f"v{index}.nii.gz")
    size = {"working_size": [16, 16, 16], "student_size": [32, 32, 32], "rounds": 1, "round_steps": 1}
    size |= {"student_norm": ["instance", {"affine": True}]}  # batch norm knows no statistics after one step
    assert distil(tmp_path / "data", tmp_path / "out", "volume.yaml", **size) == 0
    mask = nib.load(tmp_path / "out" / "masks" / "v1_mask.nii.gz")
    assert mask.shape == (14, 17, 13)
    assert np.array_equal(mask.affine, affine)


def test_a_broken_image_is_named_and_the_others_go_on(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "data")
    (tmp_path / "data" / "images" / "broken.png").write_bytes(b"no image")
    assert distil(tmp_path / "data", tmp_path / "out", rounds=1) == 2
    assert [row["status"] for row in read_summary(tmp_path / "out" / "masks")] == ["failed", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_seeds": 2}, "teacher cannot be built: teacher_seeds must be a list of different whole numbers"),
        ({"min_confidence": 2}, "distiller cannot be built: min_confidence must be a finite number from 0 to 1, got 2"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        ({"student_def#out_channels": 2}, "distiller cannot be built: student_def must put out one channel"),
        ({"student_size": [16, 16]}, "distiller cannot be built: student_def does not run at student_size [16, 16]"),
        ({"student_size": 32}, "student_size must be a list of 2 whole numbers of at least 1, got 32"),
        ({"student_size": [30]}, "student_size must be a list of 2 whole numbers of at least 1, got [30]"),
        ({"flip_axes": 1}, "flip_axes must be a list of distinct axes from [0, 1], got 1"),
        ({"flip_axes": [2]}, "flip_axes must be a list of distinct axes from [0, 1], got [2]"),
        ({"flip_axes": [0, 0]}, "flip_axes must be a list of distinct axes from [0, 1], got [0, 0]"),
        ({"roundz": 3}, "unknown option roundz; did you mean rounds?"),
        ({"student#loss_function#exponent": 0}, "student#loss_function cannot be built: exponent must be"),
        ({"dataset_dir": "nowhere"}, "the dataset folder does not exist"),
    ],
)
def test_wrong_options_are_one_line(done, tmp_path, options, message):
    status = (
        distil(**{"folder": done[0], "output": tmp_path / "out", **options})
        if "dataset_dir" not in options
        else (distil(tmp_path / "nowhere", tmp_path / "out"))
    )
    assert str(status).startswith(f"error: {message}")
    assert "\n" not in status
    assert not (tmp_path / "out").exists()


def test_nothing_to_learn_from(done, tmp_path):
    status = distil(done[0], tmp_path / "out", **{"foreground#min_fraction": 0.7, "foreground#max_fraction": 0.7})
    assert status.startswith("error: all 3 masks are empty before round 1: there is nothing to learn from")
