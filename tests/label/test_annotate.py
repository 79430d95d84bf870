"""What the page asks the server for, and what the server refuses, over real requests."""

import gzip
import http.client
import io
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from label_tools import AFFINE, Server, dice, draw_studies, draw_volume, picture
from PIL import Image

requests = pytest.importorskip("requests", reason="comes with monailabel")

NOWHERE = ["../secret", "/etc/passwd", "..%2f..%2fsecret", "a/../../secret", "\x00", "", "no such image"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    (folder / "secret.png").write_bytes(b"secret")
    (folder / "studies").mkdir()
    return draw_studies(folder / "studies")


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory):
    with Server(studies, tmp_path_factory.mktemp("app")) as running:
        yield running


def get(server, path, **values):
    return requests.get(f"{server.url}/annotate/{path}", params=values, timeout=300)


def post(server, path, **options):
    return requests.post(f"{server.url}/annotate/{path}", timeout=300, **options)


def mask_of(answer, shape):
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, dtype=np.uint8).reshape(shape) > 0


def states(server):
    return {one["id"]: one["state"] for one in get(server, "images").json()["images"]}


def centre(truth):
    return np.argwhere(truth).mean(axis=0).round().astype(int).tolist()


def test_the_page_and_its_parts_are_served_and_name_no_other_host(server):
    for name, kind in {"": "text/html", "page/annotate.css": "text/css", "page/annotate.js": "text/javascript"}.items():
        answer = get(server, name)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "http://" not in answer.text
        assert "https://" not in answer.text
    assert "default-src 'self'" in get(server, "").headers["content-security-policy"]
    assert get(server, "page/annotate.py").status_code == 404
    assert get(server, "page/..%2fapp.py").status_code == 400


def test_a_mask_is_proposed_on_first_sight_and_kept(server):
    truth = picture("a")[1]
    assert states(server)["a"] == "new"
    mask = mask_of(get(server, "mask", image="a"), truth.shape)
    assert dice(mask, truth) > 0.9
    assert states(server)["a"] == "proposed"
    assert np.array_equal(mask, np.asarray(Image.open(server.studies / "labels" / "original" / "a.png")) > 0)
    assert np.array_equal(mask, mask_of(get(server, "mask", image="a"), truth.shape))


def test_clicks_in_the_order_of_the_axes_correct_the_mask_that_is_shown(server):
    truth = picture("a")[1]
    proposed = mask_of(get(server, "mask", image="a"), truth.shape)
    corner = [2, 3]
    clicked = post(server, "click", json={"image": "a", "foreground": [], "background": [corner]})
    assert np.array_equal(mask_of(clicked, truth.shape), proposed)  # it is background already
    body = {"image": "a", "foreground": [centre(truth)], "from_mask": False}
    assert dice(mask_of(post(server, "click", json=body), truth.shape), truth) > 0.9
    added = post(server, "click", json={"image": "a", "foreground": [corner]})
    assert mask_of(added, truth.shape)[tuple(corner)]


def test_what_is_accepted_is_kept_to_the_pixel_and_can_be_rejected(server):
    truth = picture("b")[1]
    drawn = truth.copy()
    drawn[:3, 5:9] = True
    body = gzip.compress(drawn.astype(np.uint8).tobytes())
    assert post(server, "accept", params={"image": "b"}, data=body).json() == {"state": "accepted"}
    assert np.array_equal(np.asarray(Image.open(server.studies / "labels" / "final" / "b.png")) > 0, drawn)
    assert np.array_equal(mask_of(get(server, "mask", image="b"), truth.shape), drawn)
    again = post(server, "accept", params={"image": "b"}, data=truth.astype(np.uint8).tobytes())
    assert again.json() == {"state": "accepted"}
    assert np.array_equal(mask_of(get(server, "mask", image="b"), truth.shape), truth)
    assert post(server, "reject", params={"image": "b"}).json() == {"state": "new"}
    assert not mask_of(get(server, "mask", image="b"), truth.shape).any()  # and nothing is proposed unasked
    assert states(server)["b"] == "new"
    assert not list((server.studies / "labels" / "final").glob("b.*"))


def test_a_volume_goes_there_and_back(server):
    volume, truth = draw_volume()
    info = get(server, "image", image="volume").json()
    assert info["shape"] == list(volume.shape)
    sliced = get(server, "slice", image="volume", view=0, index=3)
    view = info["views"][0]
    assert len(sliced.content) == 2 * volume.shape[view["row"]] * volume.shape[view["column"]]
    body = {"image": "volume", "foreground": [centre(truth)], "from_mask": False}
    mask = mask_of(post(server, "click", json=body), truth.shape)
    assert dice(mask, truth) > 0.9
    post(server, "accept", params={"image": "volume"}, data=mask.astype(np.uint8).tobytes())
    kept = nib.load(server.studies / "labels" / "final" / "volume.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj) > 0, mask)
    assert np.allclose(kept.affine, AFFINE)


def test_the_export_holds_accepted_masks_and_if_asked_proposals(server):
    get(server, "mask", image="a")
    truth = picture("d")[1]
    post(server, "accept", params={"image": "d"}, data=truth.astype(np.uint8).tobytes())
    with zipfile.ZipFile(io.BytesIO(get(server, "export").content)) as archive:
        assert archive.testzip() is None
        assert "d_mask.png" in archive.namelist()
        assert not any("a_mask" in name for name in archive.namelist())
        assert np.array_equal(np.asarray(Image.open(archive.open("d_mask.png"))) > 0, truth)
    with zipfile.ZipFile(io.BytesIO(get(server, "export", proposals=True).content)) as archive:
        assert "proposed/a_mask.png" in archive.namelist()


@pytest.mark.parametrize("image", NOWHERE)
def test_names_that_are_no_images_lead_nowhere(server, image):
    before = sorted(path.name for path in server.studies.parent.rglob("*"))
    for path in ("image", "slice", "thumbnail", "mask"):
        answer = get(server, path, image=image)
        assert answer.status_code == 404, (path, answer.text)
        assert "there is no image" in answer.json()["detail"]
    assert post(server, "accept", params={"image": image}, data=b"1").status_code == 404
    assert post(server, "reject", params={"image": image}).status_code == 404
    assert post(server, "click", json={"image": image, "foreground": [[1, 1]]}).status_code == 404
    assert sorted(path.name for path in server.studies.parent.rglob("*")) == before


BAD = [
    ({"foreground": [[1]]}, "a click must lie in the image of the shape (90, 121)"),
    ({"foreground": [[900, 1]]}, "a click must lie in the image of the shape (90, 121)"),
    ({"foreground": "x"}, "valid list"),
    ({"foreground": [["a", 1]]}, "must be a list of clicks"),
    ({"foreground": [[float("1e300"), 1]]}, "must be a list of clicks"),
    ({"foreground": [[1, 1]] * 101}, "at most 100 clicks"),
    ({"foreground": [7]}, "must be a list of clicks"),
    ({"from_mask": False}, "no click"),
]


@pytest.mark.parametrize(("more", "message"), BAD)
def test_clicks_that_make_no_sense_are_refused(server, more, message):
    answer = post(server, "click", json={"image": "a", **more})
    assert answer.status_code in (400, 422), answer.text
    assert message in answer.text


def test_bodies_that_are_no_masks_are_refused(server):
    pixels = picture("a")[1].size
    bomb = gzip.compress(bytes(50 * 2**20))
    for body, message in [
        (b"", f"a byte for each of {pixels} pixels, got 0 bytes"),
        (b"1" * (pixels - 1), f"got {pixels - 1} bytes"),
        (bomb, f"got more than {pixels} bytes"),
        (bomb[:20] + b"x", "got "),
        (b"\x1f\x8bnothing", "damaged"),
    ]:
        answer = post(server, "accept", params={"image": "a"}, data=body)
        assert answer.status_code == 400
        assert message in answer.json()["detail"]
    assert states(server)["a"] != "accepted"


def test_an_image_that_cannot_be_read_says_so(server):
    assert get(server, "thumbnail", image="damaged").status_code == 200  # a black one in the list
    for path in ("image", "mask"):
        answer = get(server, path, image="damaged")
        assert answer.status_code == 400
        assert "damaged.png: not an image, or damaged" in answer.json()["detail"]


def test_label_maps_of_classes_are_not_flattened(server):
    truth = picture("c")[1].astype(np.uint8)
    truth[: truth.shape[0] // 2] *= 5
    file = io.BytesIO()
    Image.fromarray(truth).save(file, "PNG")
    saved = requests.put(
        f"{server.url}/datastore/label",
        params={"image": "c", "tag": "final"},
        files={"label": ("c.png", file.getvalue())},
        timeout=60,
    )
    assert saved.status_code == 200
    answer = post(server, "accept", params={"image": "c"}, data=(truth > 0).astype(np.uint8).tobytes())
    assert answer.status_code == 400
    assert "tells classes 1, 5 apart" in answer.json()["detail"]


def test_pages_of_other_origins_are_refused_everywhere(server):
    other = {"Origin": "http://evil.example"}
    for path in ("annotate/", "annotate/images", "info/", "datastore/"):
        assert requests.get(f"{server.url}/{path}", headers=other, timeout=60).status_code == 403
        embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert requests.get(f"{server.url}/{path}", headers=embedded, timeout=60).status_code == 403
    for path in ("annotate/reject?image=a", "train/fusenet_feedforward", "annotate/propose"):
        assert requests.post(f"{server.url}/{path}", headers=other, timeout=60).status_code == 403
    assert states(server)["a"] == "proposed"
    own = {"Origin": server.url}
    assert requests.get(f"{server.url}/annotate/images", headers=own, timeout=60).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert requests.get(f"{server.url}/annotate/", headers=link, timeout=60).status_code == 200


def test_names_that_others_have_pointed_here_are_refused(server):
    for host in ("evil.example", f"evil.example:{server.port}", ""):
        answer = requests.get(f"{server.url}/annotate/images", headers={"Host": host}, timeout=60)
        assert answer.status_code in (400, 403), host
    local = {"Host": f"localhost:{server.port}"}
    assert requests.get(f"{server.url}/annotate/images", headers=local, timeout=60).status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/annotate/accept?image=a")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert "512 MiB at most" in json.loads(answer.read())["detail"]
    connection.close()


def test_many_clicks_at_the_same_time_are_all_answered(server):
    truth = picture("a")[1]
    body = {"image": "a", "foreground": [centre(truth)], "from_mask": False}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(server, "click", json=body), range(50)))
    masks = [mask_of(answer, truth.shape) for answer in answers]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_the_folder_is_fitted_and_then_proposed_from_accepted_masks(server):
    """The loop of a person: what is accepted teaches a network, which proposes all others."""
    assert post(server, "fit").status_code == 200
    assert post(server, "fit").status_code == 409  # one at a time
    told = "1 of 2 images have no proposal; damaged: cannot read "
    assert follow(server).startswith(told)
    notes = {one["id"]: one["note"] for one in get(server, "images").json()["images"]}
    assert notes["damaged"] == "cannot be read"
    assert {state for image, state in states(server).items() if image not in ("damaged",)} == {"proposed", "accepted"}
    assert "tells classes 1, 5 apart" in post(server, "reject", params={"image": "c"}).json()["detail"]
    gone = requests.delete(f"{server.url}/datastore/label", params={"id": "c", "tag": "final"}, timeout=60)
    assert gone.status_code == 200
    for image in "abc":
        truth = picture(image)[1]
        post(server, "reject", params={"image": image})
        answer = post(server, "accept", params={"image": image}, data=truth.astype(np.uint8).tobytes())
        assert answer.json() == {"state": "accepted"}
    truth = picture("d")[1]
    post(server, "reject", params={"image": "d"})
    assert post(server, "propose").status_code == 200
    assert " images have no proposal; damaged: cannot read " in follow(server)
    assert states(server)["d"] == "proposed"
    assert dice(mask_of(get(server, "mask", image="d"), truth.shape), truth) > 0.8
    said = {one["id"]: one["uncertainty"] for one in get(server, "images").json()["images"]}
    assert 0 < said["d"] < 1
    assert 0 <= get(server, "status").json()["expected_dice"] <= 1


def test_a_job_can_be_stopped_from_its_first_moment(server):
    """Also where MONAI Label has not begun its process yet, and would forget the stop."""
    before = states(server)
    begun = time.monotonic()
    assert post(server, "propose").status_code == 200
    assert post(server, "stop").status_code == 200
    assert follow(server) == "stopped"
    assert time.monotonic() - begun < 30
    assert states(server) == before


def follow(server):
    """Why the job ended early, once it has ended; "" if it did not."""
    for _ in range(600):
        status = get(server, "status").json()
        if not status["job"]["running"]:
            return status["job"]["error"]
        time.sleep(0.5)
    raise RuntimeError(f"it has not ended: {status}")
