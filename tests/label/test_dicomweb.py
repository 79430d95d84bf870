"""The server on the series of a real DICOMweb server (Orthanc), as OHIF, 3D Slicer and the page ask it.

Orthanc listens on all addresses, so that these tests run in a network of their own:
`unshare -n sh -c 'ip link set lo up && pytest tests/label/test_dicomweb.py'`.
"""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from dicom_tools import write_ct_series
from label_tools import Server, dice

requests = pytest.importorskip("requests", reason="comes with monailabel")
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from attacks import ask_for, attack  # noqa: E402

from benchmarks.ohif_picture import ORTHANC  # noqa: E402
from benchmarks.ohif_picture import orthanc as run_orthanc  # noqa: E402

pytestmark = [
    pytest.mark.skipif(shutil.which("Orthanc") is None, reason="needs Debian's orthanc and orthanc-dicomweb"),
    pytest.mark.skipif([name for _, name in socket.if_nameindex()] != ["lo"], reason="needs a network of its own"),
]
NOWHERE = ["..", "../../etc", "/etc", "1.2.3", "1.2/../..", "1.2.\x00", "x" * 300]
SHAPE = (24, 36, 40)  # slices, rows, columns


def draw(modality):
    """A dark ellipsoid on bright ground (slices, rows, columns), as stored values, and its mask."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    mask = ((x - 22) / 11) ** 2 + ((y - 16) / 9) ** 2 + ((z - 12) / 7) ** 2 < 1
    noise = np.random.default_rng(len(modality)).integers(-6, 7, SHAPE)
    return (np.where(mask, 460, 620) + noise).astype(np.int16), mask


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """A running Orthanc with a series of CT and one of MR; their UIDs by modality."""
    folder = tmp_path_factory.mktemp("orthanc")
    with run_orthanc(folder):
        uids = {}
        for modality in ("CT", "MR"):
            paths = write_ct_series(folder / modality, draw(modality)[0], Modality=modality)
            for path in paths:
                assert requests.post(f"{ORTHANC}/instances", data=path.read_bytes(), timeout=60).status_code == 200
            uids[modality] = str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
        yield uids


@pytest.fixture(scope="module")
def server(orthanc, tmp_path_factory):
    app = tmp_path_factory.mktemp("app")
    running = Server(app, app)
    running.command[running.command.index("--studies") + 1] = f"{ORTHANC}/dicom-web"
    with running:
        yield running


def mask_of(server, uid):
    """The mask that the page shows (slices, rows, columns): the array's axes are column, row and slice."""
    shape = requests.get(f"{server.url}/annotate/image", params={"image": uid}, timeout=60).json()["shape"]
    answer = requests.get(f"{server.url}/annotate/mask", params={"image": uid}, timeout=300)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, dtype=np.uint8).reshape(shape).transpose()


def test_series_of_any_modality_are_listed(server, orthanc):
    images = requests.get(f"{server.url}/annotate/images", timeout=60).json()["images"]
    assert {one["id"] for one in images} == set(orthanc.values())


def test_a_click_is_answered_as_ohif_asks_for_it(server, orthanc):
    params = {"foreground": [[22, 16, 12]], "result_extension": ".nrrd", "result_dtype": "uint8"}
    params["result_compress"] = False
    status, content = server.ask("fusenet_click", orthanc["CT"], params)
    assert status == 200
    header, _, voxels = content.partition(b"\n\n")
    assert b"type: unsigned char" in header
    assert b"encoding: raw" in header
    assert b"sizes: 40 36 24" in header
    mask = np.frombuffer(voxels, dtype=np.uint8).reshape(SHAPE) > 0
    assert dice(mask, draw("CT")[1]) > 0.85


def test_a_series_that_many_ask_for_at_once_is_fetched_once_and_whole(server, orthanc):
    def ask(path):
        return requests.get(f"{server.url}/annotate/{path}", params={"image": orthanc["MR"]}, timeout=300)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, ["image", "thumbnail", "mask", "image", "thumbnail", "mask"]))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert answers[0].json()["shape"] == list(SHAPE[::-1])
    assert {len(answer.content) for answer in answers[2::3]} == {int(np.prod(SHAPE))}


def test_what_is_accepted_is_a_dicom_seg_that_comes_back_and_teaches(server, orthanc):
    truth = draw("MR")[1]
    body = truth.transpose().astype(np.uint8).tobytes()
    accepted = requests.post(f"{server.url}/annotate/accept", params={"image": orthanc["MR"]}, data=body, timeout=300)
    assert accepted.json() == {"state": "accepted"}
    found = requests.get(f"{ORTHANC}/dicom-web/series", params={"Modality": "SEG"}, timeout=60).json()
    assert len(found) == 1
    series = requests.get(f"{ORTHANC}/series", timeout=60).json()
    stored = [requests.get(f"{ORTHANC}/series/{one}", timeout=60).json() for one in series]
    instance = next(one for one in stored if one["MainDicomTags"]["Modality"] == "SEG")["Instances"][0]
    file = requests.get(f"{ORTHANC}/instances/{instance}/file", timeout=60).content
    segmentation = pydicom.dcmread(pydicom.filebase.DicomBytesIO(file))
    assert int(segmentation.pixel_array.sum()) == truth.sum()
    images = requests.get(f"{server.url}/annotate/images", timeout=60).json()["images"]
    assert orthanc["CT"] in {one["id"] for one in images}
    assert len(images) == 2  # a DICOM SEG is no image
    assert np.array_equal(mask_of(server, orthanc["MR"]) > 0, truth)
    started = requests.post(f"{server.url}/train/fusenet_feedforward", json={"steps": 20}, timeout=60)
    assert started.status_code == 200
    ended = server.wait_for("train")
    assert ended["status"] == "DONE", ended["details"]
    assert "'images': 1" in "\n".join(ended["details"])


@pytest.mark.parametrize("image", NOWHERE)
def test_names_that_are_no_series_lead_nowhere(server, image):
    before = sorted(str(path) for path in (server.app / "home").rglob("*"))
    for path in ("annotate/image", "annotate/mask", "datastore/image"):
        answer = requests.get(f"{server.url}/{path}", params={"image": image}, timeout=60)
        assert answer.status_code == 404, (path, answer.text)
    assert server.ask("fusenet_mask", image, {})[0] == 404
    file = {"label": ("a.nii.gz", b"no mask")}
    saved = requests.put(
        f"{server.url}/datastore/label", params={"image": image, "tag": "final"}, files=file, timeout=60
    )
    assert saved.status_code == 404
    assert sorted(str(path) for path in (server.app / "home").rglob("*")) == before


def test_tags_that_are_no_names_are_refused(server, orthanc):
    for tag in ("../x", "..", "a/b"):
        file = {"label": ("a.nii.gz", b"no mask")}
        params = {"image": orthanc["CT"], "tag": tag}
        saved = requests.put(f"{server.url}/datastore/label", params=params, files=file, timeout=60)
        assert saved.status_code == 400
        assert "must be a name of at most 200 bytes without slashes" in saved.text


def test_no_parameter_of_any_route_leads_out_of_the_cache(server, orthanc):
    def files():
        own = {".cache", "cache", "model", "results"}  # where the server writes
        return sorted(str(path) for path in server.app.rglob("*") if path.is_file() and not own & set(path.parts))

    before = files()
    for what, answer in attack(server, orthanc["CT"], ["../../../server.log", "..", str(server.app / "small.yaml")]):
        assert b"network_def#features" not in answer.content, what
        assert answer.status_code < 500 or "the server failed: " in answer.json()["detail"], (what, answer.text)
    assert files() == before
    assert server.get("/info/")[0] == 200


@pytest.mark.parametrize("path", [f"/proxy/dicom/{path}/system" for path in ("qido/../..", "%2e%2e", "..", "wado/..")])
def test_the_proxy_asks_for_dicomweb_alone(server, path):
    status, content = ask_for(server, path)
    assert status == 400
    assert b"a path may not lead upwards" in content


def test_a_damaged_series_is_told_in_one_line_and_the_others_go_on(server, orthanc, tmp_path):
    paths = write_ct_series(tmp_path / "damaged", draw("CT")[0])
    for index, path in enumerate(paths):
        content = path.read_bytes()
        if index == 7:  # the header says as many pixels as before
            damaged = pydicom.dcmread(path)
            damaged.PixelData = damaged.PixelData[:100]
            damaged.save_as(path, write_like_original=False)
            content = path.read_bytes()
        assert requests.post(f"{ORTHANC}/instances", data=content, timeout=60).status_code == 200
    uid = str(pydicom.dcmread(paths[0]).SeriesInstanceUID)
    for path in ("image", "mask", "thumbnail"):
        answer = requests.get(f"{server.url}/annotate/{path}", params={"image": uid}, timeout=120)
        assert answer.status_code == 200 if path == "thumbnail" else answer.status_code == 400, answer.text
        assert path == "thumbnail" or "\n" not in answer.json()["detail"]
    status, content = server.ask("fusenet_mask", uid, {})
    assert status == 400, content
    assert mask_of(server, orthanc["CT"]).any()
