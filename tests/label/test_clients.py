"""Requests as 3D Slicer, OHIF, CVAT and scripts send them, to the real server."""

import json

import itk
import nibabel as nib
import numpy as np
import pytest
from label_tools import dice, draw_volume, middle, picture
from PIL import Image

# What the clients add to every request.
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
# the first of each list that /info/ offers
SLICER_OPTIONS = {"device": "cpu", "weights": "fresh", "scope": "volume", "start": "click"}
OHIF_2 = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}
OHIF_3 = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
CLICK_IN_VOLUME = [middle(draw_volume()[1])]


def read(content, path):
    """An ITK image of what came."""
    path.write_bytes(content)
    return itk.imread(str(path))


def refused(server, model, image, params, **files):
    """The message of a request that is refused with 400, in one line, without a traceback in the log."""
    logged = len(server.log.read_text())
    status, content = server.ask(model, image, params, **files)
    assert status == 400, content
    message = json.loads(content)["detail"]
    assert "\n" not in message
    assert "Traceback" not in server.log.read_text()[logged:]
    return message


@pytest.mark.parametrize(
    ("params", "dtype"),
    [
        ({"label": "Segment_1", "background": [], **SLICER_OPTIONS, **SLICER}, np.uint8),
        (
            {"label": "Лёгкое", "background": [[1, 1, 1]], "roi": [1, 9, 1, 9, 1, 9], "reset_state": True, **SLICER},
            np.uint8,
        ),
        ({"background": [], "largest_cc": True, **OHIF_2}, np.uint16),
        ({"background": [], **SLICER_OPTIONS, **OHIF_3}, np.uint8),
    ],
)
def test_a_click_in_a_volume(server, tmp_path, params, dtype):
    status, content = server.ask("fusenet_click", "volume", {"foreground": CLICK_IN_VOLUME, **params})
    assert (status, content[:4]) == (200, b"NRRD")
    mask, image = read(content, tmp_path / "mask.nrrd"), itk.imread(str(server.studies / "volume.nii.gz"))
    assert itk.array_from_image(mask).dtype == dtype
    assert np.allclose(mask.GetOrigin(), image.GetOrigin())
    assert np.allclose(mask.GetSpacing(), image.GetSpacing())
    assert np.allclose(itk.array_from_matrix(mask.GetDirection()), itk.array_from_matrix(image.GetDirection()))
    assert dice(itk.array_from_image(mask).T > 0, draw_volume()[1]) > 0.85


def test_a_click_on_a_picture_that_slicer_sees_as_a_volume(server, tmp_path):
    _, truth = picture("b")
    params = {"label": "lesion", "foreground": [[*middle(truth), 0]], "background": [], **SLICER_OPTIONS, **SLICER}
    status, content = server.ask("fusenet_click", "b", params)
    assert status == 200
    assert dice(itk.array_from_image(read(content, tmp_path / "mask.nrrd")) > 0, truth) > 0.9


def test_a_picture_from_cvat(server, tmp_path):
    pixels, truth = picture("c")
    Image.fromarray(pixels).save(tmp_path / "frame.jpg")
    params = {
        "output": "mask",
        "foreground": [middle(truth)],
        "background": [],
        "roi": [3, 3, 90, 90],
        "client_id": "x",
    }
    mask, told = server.infer("fusenet_click", "", params, file=str(tmp_path / "frame.jpg"))
    assert dice(mask > 0, truth) > 0.9
    assert told["label_names"] == {"foreground": 1}


def test_scribbles_from_slicer(server, tmp_path):
    volume = nib.load(server.studies / "volume.nii.gz")
    i, j, k = CLICK_IN_VOLUME[0]
    strokes = np.zeros(volume.shape, dtype=np.uint8)
    strokes[i - 3 : i + 4, j, k] = 3
    strokes[2, 2:9, 2] = 2
    nib.save(nib.Nifti1Image(strokes, volume.affine), tmp_path / "strokes.nii.gz")
    named = {"label_info": [{"name": "liver", "id": 1}], "selected_label_name": "liver", "roi": []}
    labels = {"scribbles_bg_label": 2, "scribbles_fg_label": 3}
    _, told = server.client().infer(
        "fusenet_scribbles", "volume", {**named, **labels, **SLICER_OPTIONS, **SLICER}, str(tmp_path / "strokes.nii.gz")
    )
    assert told["label_names"] == {"liver": 1}


@pytest.mark.parametrize("model", ["fusenet_clusters", "fusenet_mask"])
@pytest.mark.parametrize("client", [SLICER, OHIF_3])
def test_a_segmentation(server, tmp_path, model, client):
    status, content = server.ask(model, "volume", {"device": "cpu", "weights": "fresh", **client})
    assert (status, content[:4]) == (200, b"NRRD")
    assert itk.array_from_image(read(content, tmp_path / "mask.nrrd")).shape == draw_volume()[1].T.shape


@pytest.mark.parametrize("extension", [".seg.nrrd", "nii", ".nii.gz", ".mha"])
def test_every_format_lies_on_the_grid_of_the_image(server, tmp_path, extension):
    params = {"foreground": CLICK_IN_VOLUME, "result_extension": extension, "label": "liver"}
    status, content = server.ask("fusenet_click", "volume", params)
    assert status == 200
    mask = read(content, tmp_path / f"mask.{extension.lstrip('.')}")
    image = itk.imread(str(server.studies / "volume.nii.gz"))
    corner = [39, 35, 23]
    assert np.allclose(mask.TransformIndexToPhysicalPoint(corner), image.TransformIndexToPhysicalPoint(corner))
    assert dice(itk.array_from_image(mask).T > 0, draw_volume()[1]) > 0.85


@pytest.mark.parametrize("label", ["Segment_1", "/etc/passwd", "a.png", "background", "", None])
def test_the_label_of_a_click_is_a_name(server, label):
    (server.app / "Segment_1").write_text("a file of that name")
    params = {"label": label, "foreground": [middle(picture("a")[1])]}
    expected = {"foreground": 1} if label in ("background", "", None) else {label: 1}
    for model in ("fusenet_click", "fusenet_mask"):
        _, told = server.infer(model, "a", dict(params))
        assert told["label_names"] == expected


def test_clicks_as_text_and_as_floats(server):
    x, y = middle(picture("a")[1])
    masks = [
        server.infer("fusenet_click", "a", {"foreground": clicks})[0] for clicks in ([[x, y]], f"[[{x}.2, {y}.0]]")
    ]
    assert np.array_equal(*masks)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"label": 5}, "label must be the name of the object, got 5"),
        (
            {"result_extension": ".jpg"},
            "result_extension must be one of .png .nii.gz .nii .nrrd .seg.nrrd .mha, got '.jpg'",
        ),
        ({"result_extension": ".png"}, "a PNG holds no volume: result_extension must be one of"),
        ({"result_dtype": "uint7"}, "result_dtype must be one of uint8, uint16"),
        ({"result_dtype": {"a": 1}}, "result_dtype must be one of uint8, uint16"),
        ({"result_compress": "yes"}, "result_compress must be true or false, got 'yes'"),
        ({"save_label": 3}, "save_label must be true or false, got 3"),
        ({"label_tag": ["a"], "save_label": True}, "label_tag must be a name"),
        ({"result_write_to_file": False}, "result_write_to_file must be true"),
        ({"device": "Quadro 9000"}, "device must be one of "),
        ({"device": "meta"}, "device must be one of "),
        ({"device": {"a": 1}}, "device must be one of "),
        ({"device": ["x"]}, "device must be one of "),
        ({"model": ["fusenet_click"]}, "model must be the name of a task, got ['fusenet_click']"),
        ({"scope": {"a": 1}}, "scope must be one of volume, slice"),
        ({"weights": ["fresh"]}, "weights must be one of fresh, trained"),
        ({"foreground": [[3, 3]]}, "a click on this image must have 3 coordinates, got [3, 3]"),
        ({"foreground": {"liver": CLICK_IN_VOLUME}}, "foreground must be a list of clicks"),
        ({"background": "[[1, 2, 3"}, "background must be a list of clicks"),
    ],
)
def test_wrong_kinds_of_values_get_one_line(server, params, message):
    assert refused(server, "fusenet_click", "volume", {"foreground": CLICK_IN_VOLUME, **params}).startswith(message)


def test_scribbles_are_a_file(server):
    for label in ("liver", "/etc/passwd", 5):
        message = refused(server, "fusenet_scribbles", "volume", {"label": label})
        assert message == f"label must be sent as a file with the request and be left out of params, got {label!r}"
    for label in ("", None):
        message = refused(server, "fusenet_scribbles", "volume", {"label": label})
        assert message == "no scribbles: expected a label map with the request, on the image's grid"


def test_a_saved_answer_has_the_form_that_was_asked_for(server):
    params = {"foreground": [middle(picture("d")[1])], "label": "lesion", **SLICER}
    for save in ("false", False, None):
        server.client().infer("fusenet_click", "d", {**params, "save_label": save})
        assert not server.client().datastore()["objects"]["d"]["labels"]
    server.client().infer("fusenet_click", "d", {**params, "save_label": True, "label_tag": ""})
    saved = server.client().datastore()["objects"]["d"]["labels"]["original"]
    assert saved["ext"] == ".nrrd"
    assert saved["info"]["params"]["label_names"] == {"lesion": 1}  # which Slicer shows beside the image
    server.client().infer("fusenet_click", "d", {**params, "save_label": "true", "result_extension": ".png"})
    assert [path.name for path in (server.studies / "labels" / "original").glob("d.*")] == ["d.png"]


def test_a_label_that_nobody_reads_is_refused(server, tmp_path):
    from monailabel.client.client import MONAILabelClientException

    (tmp_path / "label.bin").write_bytes(bytes(90))
    with pytest.raises(MONAILabelClientException) as told:
        server.client().save_label("d", str(tmp_path / "label.bin"))
    assert "400" in told.value.msg
    assert "a label must be a file with one of the suffixes .png " in told.value.msg
    assert "final" not in server.client().datastore()["objects"]["d"]["labels"]


def test_what_is_no_json_is_told(server):
    import requests

    url = f"{server.url}/infer/fusenet_click?image=a"
    answer = requests.post(url, data={"params": "'{foreground: [[3, 3]]}'"}, timeout=60)  # from a shell of Windows
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("""expected JSON, got "'{foreground: [[3, 3]]}'" (""")


def test_what_monai_label_refuses_is_told(server):
    import requests

    answer = requests.delete(f"{server.url}/datastore/image?id=nowhere", timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (400, "Image nowhere not found")


NO_OBJECT = 'params must be a JSON object, as {"foreground": [[3, 3]]}'


@pytest.mark.parametrize("params", ["null", "5", '"a"', "[1]", "[" * 3000])
def test_params_that_are_no_object(server, params):
    import requests

    logged = len(server.log.read_text())
    answer = requests.post(f"{server.url}/infer/fusenet_click?image=a", data={"params": params}, timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (400, NO_OBJECT)
    assert "Traceback" not in server.log.read_text()[logged:]


@pytest.mark.parametrize("params", ["null", "5", "[1]"])
@pytest.mark.parametrize(("url", "field"), [("label?image=a&tag=final", "label"), ("image?image=new", "file")])
def test_files_with_params_that_are_no_object_are_not_kept(server, params, url, field):
    import requests

    url = f"{server.url}/datastore/{url}"
    answer = requests.put(url, data={"params": params}, files={field: ("a.png", b"")}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("params must be a JSON object, ")
    objects = server.client().datastore()["objects"]
    assert "new" not in objects
    assert "final" not in objects["a"]["labels"]


@pytest.mark.parametrize(("image", "size"), [("volume", 7), ("volume", 2 * 40 * 36 * 24), ("a", 90 * 121), ("no", 1)])
def test_scribbles_in_bytes_that_are_not_one_for_each_voxel(server, tmp_path, image, size):
    (tmp_path / "label.bin").write_bytes(bytes(size))
    assert refused(server, "fusenet_scribbles", image, {}, label=tmp_path / "label.bin") == (
        "a label as .bin must hold one byte for each voxel of an image in the datastore that is a volume; "
        "scribbles on a picture must be a file of an image format"
    )


def test_scribbles_in_bytes_as_ohif_sends_them(server, tmp_path):
    _, mask = draw_volume()
    labels = np.zeros(mask.shape, np.uint8)
    labels[tuple(middle(mask))] = 3
    (tmp_path / "label.bin").write_bytes(labels.tobytes(order="F"))
    found, _ = server.infer("fusenet_scribbles", "volume", {}, label_in=str(tmp_path / "label.bin"))
    assert dice(found > 0, mask) > 0.8


def test_a_file_beside_a_label_in_params(server, tmp_path):
    Image.fromarray(np.full((90, 121), 3, np.uint8)).save(tmp_path / "label.png")
    message = refused(server, "fusenet_scribbles", "a", {"label": "liver"}, label=tmp_path / "label.png")
    assert message == "label must be sent as a file with the request and be left out of params, got 'liver'"


def test_a_session_that_there_is_not(server):
    import requests

    answer = requests.post(f"{server.url}/infer/fusenet_click?session_id=nowhere", timeout=60)
    detail = "no image is named, and there is no session of this session_id: it may have ended"
    assert (answer.status_code, answer.json()["detail"]) == (404, detail)


def test_dicom_segmentations_of_a_folder_are_refused_as_a_fault_of_the_request(server):
    import requests

    data = {"params": '{"foreground": [[3, 3]]}'}
    answer = requests.post(f"{server.url}/infer/fusenet_click?image=a&output=dicom_seg", data=data, timeout=60)
    detail = "output=dicom_seg needs a DICOMweb server as studies, not a folder"
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)
    answer = requests.post(f"{server.url}/infer/fusenet_click", data=data, timeout=60)
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "Neither Image nor File not Session ID input is provided",
    )
    assert requests.get(f"{server.url}/nowhere", timeout=60).status_code == 404
