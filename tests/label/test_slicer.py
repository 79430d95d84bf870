"""What the MONAI Label module of 3D Slicer asks for from opening a folder to a training, in its order.

The module brings a client of its own, whose requests are those of MONAI Label's: here they are sent by that one.
"""

import time

import nibabel as nib
import numpy as np
import pytest
from label_tools import AFFINE, Server, dice, draw_volume, middle

# What the module adds to every request, and the options of the model that it shows, as /info/ has them.
ALWAYS = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "client_id": "user-xyz"}
NAMES = ["case_1", "case_2"]


def draw(name):
    """A volume of a name, and its mask."""
    volume, mask = draw_volume()
    turned = NAMES.index(name) * 2
    return np.rot90(volume, turned).copy(), np.rot90(mask, turned).copy()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    studies = tmp_path_factory.mktemp("studies")
    for name in NAMES:
        nib.save(nib.Nifti1Image(draw(name)[0], AFFINE), studies / f"{name}.nii.gz")
    with Server(studies, tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.fixture
def client(server, tmp_path):
    from monailabel.client import MONAILabelClient

    return MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="user-xyz")


def read(path):
    import itk

    return itk.array_from_image(itk.imread(path)).T > 0


def options_of(client, model):
    """The first value of each option, as the module's table offers it."""
    config = client.info()["models"][model]["config"]
    return {name: value[0] if isinstance(value, list) else value for name, value in config.items()}


def test_connecting_shows_models_labels_and_strategies(server, client):
    info = client.info()
    assert {model["type"] for model in info["models"].values()} >= {"segmentation", "deepgrow", "scribbles"}
    assert info["labels"] is not None
    for model in info["models"].values():
        assert model["labels"]
        assert model["dimension"] in (2, 3)
    assert set(info["strategies"]) == {"uncertainty", "first", "random"}
    assert server.get("/datastore/")[1]["total"] == len(NAMES)


def test_a_sample_is_segmented_clicked_on_and_submitted(server, client):
    sample = client.next_sample("uncertainty", {})
    assert sample["id"] in NAMES
    assert sample["path"].endswith(f"{sample['id']}.nii.gz")
    truth = draw(sample["id"])[1]
    file, told = client.infer("fusenet_mask", sample["id"], {**options_of(client, "fusenet_mask"), **ALWAYS})
    assert dice(read(file), truth) > 0.85
    assert told["label_names"] == {"foreground": 1}

    clicks = {"label": "liver", "foreground": [middle(truth)], "background": []}
    request = {**options_of(client, "fusenet_click"), **clicks, **ALWAYS}
    file, told = client.infer("fusenet_click", sample["id"], request)
    mask = read(file)
    assert dice(mask, truth) > 0.85
    assert told["label_names"] == {"liver": 1}

    info = {"label_info": [{"name": "liver", "idx": 1}], "client_id": "user-xyz"}
    client.save_label(sample["id"], file, "final", info)
    assert server.get("/datastore/")[1]["completed"] == 1
    assert client.next_sample("uncertainty", {})["id"] != sample["id"]
    saved = client.download_label(sample["id"], "final")
    assert np.array_equal(read(saved), mask)


def test_an_image_that_is_in_slicer_alone_is_a_session(server, client, tmp_path):
    volume, truth = draw("case_2")
    nib.save(nib.Nifti1Image(volume, AFFINE), tmp_path / "local.nii.gz")
    created = client.create_session(str(tmp_path / "local.nii.gz"))
    session = created["session_id"]
    assert client.get_session(session)["name"] == session
    request = {"label": "liver", "foreground": [middle(truth)], "background": [], **ALWAYS}
    file, told = client.infer("fusenet_click", "", request, session_id=session)
    assert dice(read(file), truth) > 0.85
    assert told["label_names"] == {"liver": 1}
    corrected = {**request, "foreground": [middle(truth), [22, 16, 12]], "background": [[2, 2, 2]]}
    file, _ = client.infer("fusenet_click", "", corrected, session_id=session)
    assert not read(file)[2, 2, 2]
    client.remove_session(session)
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as told:
        client.infer("fusenet_click", "", request, session_id=session)
    assert "there is no session of this session_id" in told.value.msg
    assert sorted(path.name for path in server.studies.glob("*.nii.gz")) == [f"{name}.nii.gz" for name in NAMES]


def test_a_new_image_is_uploaded_and_labelled(client, tmp_path):
    volume, truth = draw("case_1")
    nib.save(nib.Nifti1Image(volume, AFFINE), tmp_path / "new.nii.gz")
    assert client.upload_image(str(tmp_path / "new.nii.gz"), "new")["image"] == "new"
    file, _ = client.infer("fusenet_click", "new", {"label": "a", "foreground": [middle(truth)], **ALWAYS})
    client.save_label("new", file, "", {"label_info": [{"name": "a", "idx": 1}]})
    assert "new" in client.datastore()["objects"]


def test_the_button_train_starts_and_stops(server, client):
    client.train_start("fusenet_feedforward", {"steps": 100000})
    deadline = time.monotonic() + 60
    while client.train_status()["status"] == "SUBMITTED":  # MONAI Label forgets a stop before its process has begun
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.train_status()["status"] == "RUNNING"
    client.train_stop()
    assert server.wait_for("train")["status"] == "STOPPED"
    assert server.get("/info/")[0] == 200
