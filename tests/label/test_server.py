"""The real server on loopback, through MONAI Label's own client, in the order in which a person works."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from label_tools import AFFINE, Server, dice, draw_volume, middle, picture
from PIL import Image

from monai_fusenet.clicks import next_click
from monai_fusenet.data import load_image


def click(server, image, foreground, background=(), **options):
    params = {"foreground": foreground, "background": list(background), **options}
    return server.infer("fusenet_click", image, params)[0]


def refusal(server, model, image, params):
    """The message of a request that is refused."""
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as refused:
        server.client().infer(model, image, params)
    assert server.get("/info/")[0] == 200  # it is still up
    return refused.value.msg


def test_it_says_where_to_point_clients(server):
    text = server.log.read_text()
    assert f"at http://127.0.0.1:{server.port}" in text
    for client in ("3D Slicer", "CVAT", "MONAILabelClient"):
        assert client in text


def test_info_names_all_tasks(server):
    info = server.client().info()
    assert {"fusenet_clusters", "fusenet_mask", "fusenet_click", "fusenet_scribbles"} == set(info["models"])
    assert set(info["trainers"]) == {"fusenet_clusters", "fusenet_feedforward"}
    assert next(iter(info["strategies"])) == "uncertainty"


def test_the_datastore_shows_all_endings(server):
    assert set(server.client().datastore()["objects"]) == {"a", "b", "c", "d", "volume", "damaged"}


def test_clusters_are_contiguous_labels_on_the_grid_of_the_image(server):
    labels, told = server.infer("fusenet_clusters", "a")
    assert labels.dtype == np.uint8
    assert labels.shape == picture("a")[1].shape
    assert list(np.unique(labels)) == list(range(1, labels.max() + 1))
    assert list(told["label_names"].values()) == list(range(1, labels.max() + 1))
    assert "a.png: no clusters in the cache, fitting a network to it" in server.log.read_text()


@pytest.mark.parametrize("name", ["a.png", "b.jpg"])
def test_one_click_gives_the_object(server, name):
    _, truth = picture(name)
    mask = click(server, name[0], [middle(truth)])
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}  # a JPEG would blur these
    assert dice(mask > 0, truth) > 0.9


def test_an_image_that_comes_with_the_request(server):
    """As CVAT sends it."""
    _, truth = picture("a")
    mask, _ = server.infer("fusenet_click", "", {"foreground": [middle(truth)]}, file=str(server.studies / "a.png"))
    assert np.array_equal(mask, click(server, "a", [middle(truth)]))


def test_further_clicks_correct(server):
    _, truth = picture("a")
    half = truth.copy()
    half[:, : middle(truth)[0]] = False  # what the image does not show: the annotator wants the right half alone
    foreground, background, scores = [], [], []
    mask = np.zeros_like(half)
    for _ in range(6):
        (row, column), is_foreground = next_click(half, mask)
        (foreground if is_foreground else background).append([column, row])
        mask = click(server, "a", foreground, background) > 0
        scores.append(dice(mask, half))
        assert all(mask[row, column] for column, row in foreground)
        assert not any(mask[row, column] for column, row in background)
    assert scores[-1] > 0.9
    assert scores[-1] > scores[0] + 0.05


def test_scribbles(server, tmp_path):
    _, truth = picture("a")
    column, row = middle(truth)
    strokes = np.zeros(truth.shape, dtype=np.uint8)
    strokes[row, column - 8 : column + 9] = 3
    strokes[2] = 2
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    mask, _ = server.infer("fusenet_scribbles", "a", label_in=str(tmp_path / "strokes.png"))
    assert dice(mask > 0, truth) > 0.9
    # A label map that lies elsewhere is none of the image.
    nib.save(nib.Nifti1Image(np.full((40, 36, 24), 3, np.uint8), np.diag([-1, 1, 1, 1])), tmp_path / "turned.nii.gz")
    with pytest.raises(Exception, match="affine"):
        server.client().infer("fusenet_scribbles", "volume", {}, label_in=str(tmp_path / "turned.nii.gz"))
    # Slicer sends a volume of one slice with the column first.
    nib.save(nib.Nifti1Image(strokes.T[..., None], np.eye(4)), tmp_path / "strokes.nii.gz")
    other, _ = server.infer("fusenet_scribbles", "a", label_in=str(tmp_path / "strokes.nii.gz"))
    assert np.array_equal(mask, other)


def test_strokes_and_clicks_that_take_part_in_a_fit(server, tmp_path):
    _, truth = picture("a")
    column, row = middle(truth)
    strokes = np.zeros(truth.shape, dtype=np.uint8)
    strokes[row, column - 8 : column + 9] = 3
    strokes[2] = strokes[-3] = 2
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    fit = {"fit_scribbles": True}
    mask, _ = server.infer("fusenet_scribbles", "a", fit, label_in=str(tmp_path / "strokes.png"))
    assert dice(mask > 0, truth) > 0.8
    _, truth = draw_volume()
    i, j, k = middle(truth)
    clicks = {"foreground": [[i, j, k], [i - 6, j, k]], "background": [[1, 1, 1], [38, 34, 22]]}
    mask, _ = server.infer("fusenet_click", "volume", {**clicks, **fit, "scope": "slice"})
    assert mask[..., k].any()
    assert not np.delete(mask, k, axis=2).any()


def test_a_volume_keeps_its_grid(server):
    _, truth = draw_volume()
    file, _ = server.client().infer("fusenet_click", "volume", {"foreground": [middle(truth)]})
    written = nib.load(file)
    assert np.allclose(written.affine, AFFINE)
    assert dice(np.asarray(written.dataobj) > 0, truth) > 0.85


def test_clicks_correct_the_mask_that_is_shown(server):
    _, truth = picture("a.png")
    row, column = middle(truth)
    shown, _ = server.infer("fusenet_mask", "a")
    away = (int(np.argmin(truth.any(axis=1))), int(np.argmin(truth.any(axis=0))))
    corrected = click(server, "a", [[column, row]], start="mask") > 0
    assert np.array_equal(corrected, shown > 0)  # a click that it agrees with changes nothing
    mask, _ = server.infer("fusenet_click", "a", {"background": [[column, row]], "start": "mask"})
    assert mask[row, column] == 0
    added = click(server, "a", [[away[1], away[0]]], start="mask") > 0
    assert added[away]
    assert added[row, column]


def test_one_slice_of_a_volume_by_option(server):
    _, truth = draw_volume()
    i, j, k = middle(truth)
    mask = click(server, "volume", [[i, j, k]], scope="slice") > 0
    assert not mask[..., :k].any()
    assert not mask[..., k + 1 :].any()
    assert dice(mask[..., k], truth[..., k]) > 0.85


@pytest.mark.parametrize(
    ("model", "image", "params", "message"),
    [
        ("fusenet_click", "nowhere", {"foreground": [[3, 3]]}, "404.*there is no image 'nowhere'"),
        ("fusenet_click", "a", {"foreground": [[121, 3]]}, r"400.*\[121, 3\] lies outside the image of 121 x 90"),
        ("fusenet_click", "a", {"foreground": [[-1, 3]]}, r"400.*\[-1, 3\] lies outside the image"),
        ("fusenet_click", "a", {}, "400.*no click"),
        ("fusenet_click", "a", {"foreground": "here"}, "400.*foreground must be a list of clicks"),
        ("fusenet_click", "a", {"foreground": [[True, 3]]}, "400.*foreground must be a list of clicks"),
        ("fusenet_click", "a", {"foreground": [[10**400, 3]]}, "400.*foreground must be a list of clicks"),
        ("fusenet_click", "a", {"foreground": [[3, 3]] * 101}, "400.*foreground must hold at most 100 clicks, got 101"),
        ("fusenet_click", "a", {"foreground": [[3, 3]], "scope": "all"}, "400.*scope must be one of volume, slice"),
        ("fusenet_click", "a", {"foreground": [[3, 3]], "start": "x"}, "400.*start must be one of click, mask, label"),
        ("fusenet_click", "a", {"background": [[3, 3]]}, "400.*no click"),
        ("fusenet_click", "a", {"start": "mask"}, "400.*no click"),
        ("fusenet_click", "a", {"foreground": [[3, 3]], "device": 5}, "400"),
        ("fusenet_click", "volume", {"foreground": [[3, 3]]}, "400.*must have 3 coordinates"),
        ("fusenet_click", "damaged", {"foreground": [[3, 3]]}, "400.*cannot read .*damaged.png"),
        ("fusenet_mask", "a", {"preset": "teeth"}, "400.*preset must be one of .*got teeth"),
        ("fusenet_mask", "a", {"weights": "trained"}, "400.*no trained weights yet"),
        ("fusenet_scribbles", "a", {}, "400.*no scribbles"),
        ("fusenet_other", "a", {}, "400.*no model 'fusenet_other'"),
        ("fusenet_feedforward", "a", {}, "400.*no trained network yet"),
    ],
)
def test_bad_requests_get_one_clear_line(server, model, image, params, message):
    assert re.search(message, refusal(server, model, image, params))


def test_what_is_wrong_is_said_before_a_fit(server):
    logged = len(server.log.read_text())
    for model, params in (("click", {}), ("mask", {"preset": "teeth"}), ("scribbles", {"scribbles_fg_label": None})):
        refusal(server, f"fusenet_{model}", "c", params)
    assert "fitting a network" not in server.log.read_text()[logged:]


def test_no_request_reads_other_files(server, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(picture("a")[0]).save(secret)
    relative = os.path.relpath(secret, server.app)
    for image in (str(secret), relative, str(tmp_path), "/dev/zero", "..", "a" * 5000):
        assert re.search("404.*there is no image", refusal(server, "fusenet_click", image, {"foreground": [[3, 3]]}))
    message = refusal(server, "fusenet_scribbles", "a", {"label": str(secret)})
    assert re.search("400.*label must be sent as a file with the request", message)
    status, _ = server.get("/batch/infer/fusenet_mask", {"multi_gpu": False, "images": [str(secret)]})
    assert status == 200
    server.wait_for("batch/infer")
    assert "secret.png failed: there is no image" in re.sub(r"/\S*/", "", server.log.read_text())
    # A file in the folder of images, by its path.
    assert click(server, str(server.studies / "a.png"), [middle(picture("a")[1])]).any()


def test_no_request_writes_elsewhere(server, tmp_path):
    from monailabel.client.client import MONAILabelClientException

    client, file = server.client(), tmp_path / "mask.png"
    Image.fromarray(picture("a")[1].astype(np.uint8)).save(file)
    escaped = str(tmp_path / "escaped")
    for tag in ("../../escaped", escaped, ".", ".."):
        params = {"foreground": [[3, 3]], "save_label": True, "label_tag": tag}
        assert "400" in refusal(server, "fusenet_click", "a", params)
        with pytest.raises(MONAILabelClientException) as refused:
            client.save_label("a", str(file), tag)
        assert "without slashes" in refused.value.msg
    with pytest.raises(MONAILabelClientException) as refused:
        client.upload_image(str(file), "../escaped")
    assert "without slashes" in refused.value.msg
    folders = (tmp_path, server.studies, server.studies.parent, server.studies.parent.parent, server.app)
    assert not any(list(folder.glob("escaped*")) for folder in folders)


def test_two_clients_at_once(server):
    _, truth = picture("a")
    with ThreadPoolExecutor(2) as pool:
        masks = list(pool.map(lambda _: click(server, "a", [middle(truth)]), range(6)))
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_batch_names_what_fails_and_does_the_rest(server):
    status, _ = server.get("/batch/infer/fusenet_mask", {"multi_gpu": False})
    assert status == 200
    assert server.wait_for("batch/infer")["status"] == "DONE"
    objects = server.client().datastore()["objects"]
    assert {name for name, one in objects.items() if "original" in one["labels"]} == {"a", "b", "c", "d", "volume"}
    for name in ("a.png", "b.jpg", "c.JPEG", "d.BMP"):
        label = np.asarray(Image.open(server.studies / "labels" / "original" / f"{name[0]}.png"))
        assert dice(label > 0, picture(name)[1]) > 0.85
    assert "damaged failed: cannot read" in server.log.read_text()


def test_the_most_uncertain_image_comes_next(server, tmp_path):
    client = server.client()
    _, truth = picture("a")
    Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "a.png")
    client.save_label("a", str(tmp_path / "a.png"), "final")
    scores = {
        name: one["image"]["info"]["fusenet_uncertainty"]
        for name, one in client.datastore()["objects"].items()
        if name not in ("a", "damaged")
    }
    served = [client.next_sample("uncertainty", {})["id"] for _ in range(4)]
    assert served == sorted(scores, key=scores.get, reverse=True)
    assert client.next_sample("uncertainty", {})["id"] == "damaged"  # has no score


def test_a_cached_click_takes_milliseconds(server, tmp_path):
    large = Image.fromarray(picture("a")[0]).resize((1024, 768))
    large.save(tmp_path / "large.png")
    client = server.client()
    client.upload_image(str(tmp_path / "large.png"), "large")
    server.infer("fusenet_clusters", "large")
    seconds = []
    for index in range(15):
        start = time.perf_counter()
        click(server, "large", [[400 + 10 * index, 380]])
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.15


def test_trainings_and_what_they_are_for(server):
    client = server.client()
    client.train_start("fusenet_clusters", {"max_epochs": 1})
    assert server.wait_for("train")["status"] == "DONE"
    labels, _ = server.infer("fusenet_clusters", "b", {"weights": "trained"})
    assert list(np.unique(labels)) == list(range(1, labels.max() + 1))
    stats = client.info()["train_stats"]["fusenet_clusters"]
    assert stats["images"] == 5  # the four pictures and the large one: labels or none, but no volume

    client.train_start("fusenet_feedforward", {"steps": 150})
    assert server.wait_for("train")["status"] == "DONE"
    stats = client.info()["train_stats"]["fusenet_feedforward"]
    assert (stats["images"], stats["left_out"]) == (1, 0)  # the one that was accepted
    assert "left out damaged.png" in server.log.read_text()  # all others take part
    mask, told = server.infer("fusenet_feedforward", "a", {"label": "lesion", "result_dtype": "uint16"})
    assert (mask.shape, mask.dtype) == (picture("a")[1].shape, np.uint16)
    assert told["label_names"] == {"lesion": 1}
    assert dice(mask > 0, picture("a")[1]) > 0.5


def command_of_monai_label(app, studies, **conf):
    (app / "main.py").write_text("from monai_fusenet.label.app import FuseNetApp\n")  # as README has it
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", "PORT"]
    return command + [part for name, value in conf.items() for part in ("--conf", name, str(value))]


def test_the_server_that_monai_label_starts_says_the_same_of_bad_requests(studies, tmp_path):
    with Server(studies, tmp_path, command=command_of_monai_label(tmp_path, studies)) as server:
        for params in (None, [1]):
            status, content = server.ask("fusenet_click", "a", params)
            assert (status, json.loads(content)["detail"][:28]) == (400, "params must be a JSON object")
        status, content = server.ask("fusenet_click", "a", {}, output="dicom_seg")
        assert (status, json.loads(content)["detail"][:16]) == (400, "output=dicom_seg")
        assert "Traceback" not in server.log.read_text()


def test_a_full_disk_costs_the_cache_alone(studies, tmp_path_factory):
    app = tmp_path_factory.mktemp("plain")
    (app / "full").write_text("a file, below which nothing can be written")
    conf = {"cache_dir": app / "full" / "cache", "preset": app / "small.yaml"}
    command = command_of_monai_label(app, studies, **conf)
    with Server(studies, app, command=command) as server:
        _, truth = picture("a")
        for _ in range(2):
            assert dice(click(server, "a", [middle(truth)]) > 0, truth) > 0.9
        assert "clusters are not kept" in server.log.read_text()


def test_the_launcher_says_what_is_wrong(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "monai_fusenet.label", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    missing = run("--studies", str(tmp_path / "nowhere"))
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "give a folder of images, or the address of a DICOMweb server" in missing.stderr
    unknown = run("--studies", str(tmp_path), "--preset", "teeth")
    assert unknown.returncode == 1
    assert "preset must be one of generic, ct, lung, nuclei, skin" in unknown.stderr


def test_three_clicks_on_real_images(shared_dir, tmp_path):
    source, studies, app = shared_dir / "data" / "dermoscopy", tmp_path / "studies", tmp_path / "app"
    studies.mkdir()
    app.mkdir()
    names = ("ISIC_0014600.jpg", "Test_1.bmp")
    for name in names:
        (studies / name).write_bytes((source / "images" / name).read_bytes())
    with Server(studies, app, preset="skin") as server:
        for name in names:
            stem = name.split(".")[0]
            truth = np.asarray(load_image(source / "masks" / f"{stem}.png"))[0] > 127
            foreground, background, mask = [], [], np.zeros_like(truth)
            for _ in range(3):
                (row, column), is_foreground = next_click(truth, mask)
                (foreground if is_foreground else background).append([column, row])
                mask = click(server, stem, foreground, background) > 0
            assert dice(mask, truth) > 0.9
