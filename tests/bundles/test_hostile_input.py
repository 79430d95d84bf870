"""Names and weights made to do harm: they do none, and what is harmless beside them goes on."""

import csv
import json
import os
import pickle
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from bundle_tools import ROOT, SMALL, call, draw_folder, draw_image, read_summary, run
from PIL import Image

from monai_fusenet.handlers.checkpoint import load_checkpoint, load_tensors
from monai_fusenet.networks import FuseNet
from monai_fusenet.utils.errors import printable

NAMES = (
    "two  spaces .png",
    "e\u0301 ü 日本.png",  # a combining accent
    "\u202egnp.exe.png",  # written from right to left
    "🧠.png",
    "..png.png",
    "a..b.png",
    "...png",
    "$(touch pwned).png",
    "`touch pwned`.png",
    "; touch pwned;.png",
    "| touch pwned.png",
    "'quotes\" & <b>.png",
    "*?[a]{b}.png",
    "%s%n%d{0}.png",
    "-rf.png",
    "--output_dir=pwned.png",
    "$broken_formula^.png",
    "=1+1.png",
    'comma,"quoted".png',
    "back\\slash.png",
    "line\nbreak\tand\x07bell\x1b[31m.png",
    "con.png",
)
UNDECODABLE = b"latin-\xfc-\xff.png"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of images with names of all kinds, the folder that a run was started from, and its results."""
    base = tmp_path_factory.mktemp("hostile")
    (base / "data").mkdir()
    for index, name in enumerate(NAMES):
        Image.fromarray(draw_image(31, 37, seed=index)[0]).save(base / "data" / name, "PNG")
    for name in (UNDECODABLE, b"x" * 251 + b".png", "ü".encode() * 125 + b".png"):
        target = os.path.join(os.fsencode(base / "data"), name)
        os.link(base / "data" / NAMES[0], target)
    (base / "work").mkdir()
    return base, run("inference", cwd=base / "work", dataset_dir=base / "data", output_dir=base / "out", **SMALL)


def test_every_name_gets_its_results_or_a_reason(hostile):
    base, process = hostile
    assert process.returncode == 2
    rows = {row["file"]: row for row in read_summary(base / "out")}
    hidden = {"..png.png", "...png"}
    shown = {name for name in NAMES if name.isprintable()} - hidden
    escaped = {
        "\\u202egnp.exe.png",
        "line\\nbreak\\tand\\x07bell\\x1b[31m.png",
        "latin-\\udcfc-\\udcff.png",
    }
    too_long = {f"{'x' * 251}.png", f"{'ü' * 125}.png"}
    assert set(rows) == shown | escaped | too_long
    for file, row in rows.items():
        assert row["status"] == ("failed" if file in too_long else "ok"), row
        assert ("File name too long" in row["message"]) == (file in too_long)
    names = {file.removesuffix(".png") for file in shown | escaped}
    results = {f"{name}_{kind}.png" for name in names for kind in ("clusters", "mask", "panel")}
    assert set(os.listdir(base / "out")) == {*results, "summary.csv"}


def test_nothing_lies_elsewhere_and_no_shell_ran(hostile):
    base, _ = hostile
    assert sorted(os.listdir(base)) == ["data", "out", "work"]
    assert os.listdir(base / "work") == []
    assert len(os.listdir(base / "data")) == len(NAMES) + 3


def test_the_terminal_gets_no_control_characters_of_names(hostile):
    _, process = hostile
    assert "\x07" not in process.stderr
    assert "\x1b" not in process.stderr
    assert "\u202e" not in process.stderr


class TagCounter(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags = [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_shows_names_and_obeys_none(tmp_path):
    names = ["<script>alert(1)<", '\'" onload="x', 'a,"b"', "line\nbreak"]
    for kind, picture in zip(("images", "masks"), draw_image(31, 37), strict=True):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for name in names:
            Image.fromarray(picture).save(tmp_path / "data" / kind / f"{name}.png")
        Image.fromarray(picture).save(tmp_path / "data" / kind / "<b>one without a prediction.png")
    (tmp_path / "predictions").mkdir()
    mask = Image.fromarray(draw_image(31, 37)[1])
    for name in names:
        mask.save(tmp_path / "predictions" / f"{printable(name)}_mask.png")
    options = {"dataset_dir": tmp_path / "data", "predictions_dir": tmp_path / "predictions"}
    assert call("evaluation", output_dir=tmp_path / "out", **options, device="cpu") == 2
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    counter = TagCounter()
    counter.feed(html)
    assert counter.open == []
    assert not counter.tags & {"script", "b"}
    assert "&lt;b&gt;one without a prediction.png" in html
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {f"images/{printable(name)}.png" for name in names}


def test_files_that_are_no_files_fail_alone(tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(draw_image(31, 37)[0]).save(tmp_path / "data" / "good.png")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    (tmp_path / "data" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "data" / "loop.png").symlink_to("loop.png")
    (tmp_path / "data" / "around").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "linked.png").symlink_to(tmp_path / "data" / "good.png")
    assert call("inference", dataset_dir=tmp_path / "data", output_dir=tmp_path / "out", **SMALL) == 2
    rows = {row["file"]: row for row in read_summary(tmp_path / "out")}
    assert {file: row["status"] for file, row in rows.items()} == {
        **{"good.png": "ok", "linked.png": "ok"},
        **{"loop.png": "failed", "pipe.png": "failed", "zero.png": "failed"},
    }
    for name in ("pipe.png", "zero.png"):
        assert rows[name]["message"] == f"cannot read {tmp_path / 'data' / name}: a pipe or a device, not a file"


def test_a_list_of_images_elsewhere_has_its_results_in_the_output_folder(tmp_path):
    for index, place in enumerate(("data", "elsewhere")):
        (tmp_path / place).mkdir()
        Image.fromarray(draw_image(31, 37, seed=index)[0]).save(tmp_path / place / "scan.png")
    listed = ["scan.png", "../elsewhere/scan.png", str(tmp_path / "elsewhere" / ".." / "elsewhere" / "scan.png")]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"test": listed}))
    assert call("inference", dataset_dir=tmp_path / "data", output_dir=tmp_path / "out", **SMALL) == 0
    assert [row["file"] for row in read_summary(tmp_path / "out")] == ["../elsewhere/scan.png", "scan.png"]
    names = {f"{name}_{kind}.png" for name in (".._elsewhere_scan", "scan") for kind in ("clusters", "mask", "panel")}
    assert set(os.listdir(tmp_path / "out")) == {*names, "summary.csv"}
    assert sorted(os.listdir(tmp_path)) == ["data", "elsewhere", "out"]
    assert os.listdir(tmp_path / "elsewhere") == ["scan.png"]


# Weights


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_zip_bomb(path):
    torch.save({"network": {}}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))


def network_weights(**changes):
    network = FuseNet(spatial_dims=2, in_channels=3, features=4, patch_grid=8)
    return {**network.state_dict(), **changes}


FEED_FORWARD = {**SMALL, "inferer#steps": 0, "inferer#resolutions": None, "inferer#fresh": False}
FIRST = next(iter(FuseNet(spatial_dims=2, in_channels=3, features=4).state_dict()))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, kind):
    folder = draw_folder(tmp_path / "data", count=1, masks=False)
    if kind == "pickle":
        (tmp_path / "a.pt").write_bytes(pickle.dumps(Payload(tmp_path / "pwned")))
    else:
        torch.save({"network": Payload(tmp_path / "pwned")}, tmp_path / "a.pt")
    message = call("inference", dataset_dir=folder, checkpoint=tmp_path / "a.pt", **FEED_FORWARD)
    assert message == f"error: checkpoint {tmp_path / 'a.pt'} holds no weights that torch can read"
    assert not (tmp_path / "pwned").exists()


def test_code_in_a_checkpoint_of_a_training_does_not_run(tmp_path):
    torch.save({"network": Payload(tmp_path / "pwned")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is no checkpoint of a training; --overwrite True starts over"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (network_weights(**{FIRST: torch.full((4, 3, 3, 3), torch.nan)}), "hold NaN or infinite values"),
        (network_weights(**{FIRST: torch.zeros(4, 3, 5, 5)}), "does not fit this network"),
        (network_weights(**{FIRST: torch.zeros(1).expand(10**6, 10**6)}), "does not fit this network"),
        (
            network_weights(**{FIRST: torch.zeros(4, 3, 3, 3).to_sparse()}),
            f"holds no weights: '{FIRST}' must name a dense",
        ),
        (network_weights(**{FIRST: "a word"}), f"holds no weights: '{FIRST}' must name a dense"),
        (network_weights(other=torch.zeros(1)), "does not fit this network"),
        ({1: torch.zeros(2)}, "holds no weights: 1 must name a dense tensor"),
        ({}, "does not fit this network"),
        ([torch.zeros(2)], "holds no weights, but a list"),
        (3, "holds no weights, but a int"),
    ],
)
def test_absurd_weights_get_one_line(tmp_path, state, message):
    folder = draw_folder(tmp_path / "data", count=1, masks=False)
    torch.save(state, tmp_path / "a.pt")
    answer = call(
        "inference", dataset_dir=folder, output_dir=tmp_path / "out", checkpoint=tmp_path / "a.pt", **FEED_FORWARD
    )
    assert answer.startswith("error: ")
    assert message in answer
    assert "\n" not in answer
    assert not (tmp_path / "out").exists()


def test_weights_that_unpack_to_more_than_their_file_are_not_unpacked(tmp_path, monkeypatch):
    write_zip_bomb(tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", None)  # not even called
    with pytest.raises(ValueError, match=r"a\.pt holds no weights that torch can read") as caught:
        load_tensors(tmp_path / "a.pt")
    assert str(caught.value.__cause__) == "it unpacks to more than its own size"


def test_torch_loads_in_one_place_and_weights_only():
    calls = [
        line.strip()
        for path in (ROOT / "monai_fusenet").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line or "pickle.load" in line
    ]
    assert calls == ["return torch.load(path, map_location=device, weights_only=True)"]
