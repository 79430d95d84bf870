"""What leads out of the folder, in every parameter of every route: one line each, and nothing outside is touched."""

import io
import json
import tarfile
import zipfile

import pytest
from label_tools import Server, draw_studies

requests = pytest.importorskip("requests", reason="comes with monailabel")
from attacks import ask_for, attack  # noqa: E402

SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds a secret, and two folders down the server's own ones."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.txt").write_bytes(SECRET)
    studies = folder / "down" / "studies"
    studies.mkdir(parents=True)
    (folder / "secret.png").write_bytes((draw_studies(studies) / "a.png").read_bytes())
    (folder / "down" / "app").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(place):
    with Server(place / "down" / "studies", place / "down" / "app") as running:
        yield running


def outside(place):
    """All files outside the server's folders, with their times."""
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if place / "down" not in path.parents}


def test_no_parameter_of_any_route_leads_elsewhere(server, place):
    before = outside(place)
    names = ["../../secret.txt", "..", str(place / "secret.png"), "..%2F..%2Fsecret.txt", "\0", "x" * 3000]
    sent = 0
    for what, answer in attack(server, "b", names):
        sent += 1
        assert SECRET not in answer.content, what
        if answer.status_code >= 400 and answer.request.method != "HEAD":
            said = answer.json()["detail"]
            assert "\n" not in str(said), what
        assert answer.status_code < 500 or answer.request.path_url.startswith(
            ("/logs/gpu", "/datastore/dataset", "/activelearning/random")  # no GPU, no label, no image: told in a line
        ), (what, answer.text)
    assert sent > 300
    assert server.get("/info/")[0] == 200
    assert outside(place) == before
    assert sorted(path.name for path in (place / "down").iterdir()) == ["app", "studies"]


@pytest.mark.parametrize(
    "path", ["/ohif/../../secret.txt", "/annotate/page/..%2f..%2fsecret.txt", "/session/..", "/%2e%2e/x"]
)
def test_paths_that_lead_upwards(server, path):
    status, content = ask_for(server, path)
    assert status in (400, 404)
    assert SECRET not in content


def test_a_folder_has_no_dicomweb_server(server):
    status, content = ask_for(server, "/proxy/dicom/qido/studies")
    assert (status, json.loads(content)["detail"]) == (
        404,
        "the images come from a folder, and there is no DICOMweb server to ask",
    )


def packed_as(kind, members):
    """An archive of names and their contents."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def open_session(server, name, content):
    files = {"files": (name, content)}
    return requests.put(f"{server.url}/session/", params={"uncompress": True}, files=files, timeout=300)


@pytest.mark.parametrize(("kind", "name"), [("zip", "a.zip"), ("tar", "a.tar.gz")])
def test_archives_are_unpacked_in_their_own_folder(server, place, kind, name):
    before = outside(place)
    picture = (place / "secret.png").read_bytes()
    kept = open_session(server, name, packed_as(kind, {"image.png": picture}))
    assert kept.status_code == 200
    answer = requests.delete(f"{server.url}/session/{kept.json()['session_id']}", timeout=60)
    assert answer.status_code == 200
    for upwards in ("../" * 12 + str(place / "evil.txt").lstrip("/"), str(place / "evil.txt")):
        open_session(server, name, packed_as(kind, {upwards: b"evil"}))
    assert outside(place) == before


def test_archives_that_are_damaged_or_too_large(server):
    damaged = open_session(server, "a.zip", packed_as("zip", {"a": b"x" * 9999})[:-30])
    assert damaged.status_code == 400
    assert damaged.json()["detail"].startswith("an archive must be a whole .zip, .tar, ")
    header = tarfile.TarInfo("large")
    header.size = 2**40
    bomb = open_session(server, "a.tar", header.tobuf() + bytes(1024))
    assert bomb.status_code == 400
    assert "\n" not in bomb.json()["detail"]
