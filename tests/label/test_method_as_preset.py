"""Another method as the preset of the app: clusters, a mask, a click and a training."""

import numpy as np
import pytest
from label_tools import draw_studies, picture
from one_view_method import OVERLAY
from PIL import Image


@pytest.fixture(scope="module", params=[4, 5], ids=["even", "odd"])
def app(request, tmp_path_factory):
    from monai_fusenet.label.app import FuseNetApp

    folder = tmp_path_factory.mktemp("toy")
    (folder / "studies").mkdir()
    draw_studies(folder / "studies")
    overlay = folder / "toy.yaml"
    overlay.write_text(OVERLAY % request.param + "steps: 3\nforeground#objects: 1\nforeground#polarity: dark\n")
    return FuseNetApp(str(folder / "app"), str(folder / "studies"), {"preset": str(overlay)})


def answer(app, model, **request):
    result = app.infer({"model": model, "image": "a", "device": "cpu", "result_extension": ".png", **request})
    return np.asarray(Image.open(result["file"]))


def test_clusters_mask_and_click(app):
    pixels, truth = picture("a.png")
    assert answer(app, "fusenet_clusters").shape == pixels.shape[:2]
    assert answer(app, "fusenet_mask").shape == truth.shape
    row, column = np.argwhere(truth).mean(axis=0).round().astype(int).tolist()
    assert answer(app, "fusenet_click", foreground=[[column, row]])[row, column] > 0


@pytest.mark.parametrize("method", ["feature_clustering", "msformer", "s3net"])
def test_methods_by_their_names(method, tmp_path):
    from monai_fusenet.label.app import FuseNetApp

    (tmp_path / "studies").mkdir()
    draw_studies(tmp_path / "studies")
    preset = tmp_path / "small.yaml"
    preset.write_text("features: 6\nsteps: 2\nworking_size: [32, 32]\nforeground#polarity: dark\n")
    conf = {"preset": str(preset), "method": method}
    app = FuseNetApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    _, truth = picture("a.png")
    assert answer(app, "fusenet_mask").shape == truth.shape
    row, column = np.argwhere(truth).mean(axis=0).round().astype(int).tolist()
    assert answer(app, "fusenet_click", foreground=[[column, row]])[row, column] > 0
    result = app.init_trainers()["fusenet_clusters"]({"max_epochs": 1, "device": "cpu"}, app.datastore())
    assert result["images"] == 4
    assert answer(app, "fusenet_clusters", weights="trained").max() >= 1


@pytest.mark.parametrize("switch", [True, "true"])
def test_clicks_take_part_in_a_fit(app, switch):
    _, truth = picture("a.png")
    row, column = np.argwhere(truth).mean(axis=0).round().astype(int).tolist()
    request = {"foreground": [[column, row]], "background": [[2, 2], [100, 3]]}
    mask = answer(app, "fusenet_click", **request, fit_scribbles=switch)
    assert mask.shape == truth.shape
    assert set(np.unique(mask)) <= {0, 1, 255}


def test_a_switch_of_another_kind(app):
    with pytest.raises(Exception, match="fit_scribbles must be true or false, got 'perhaps'"):
        answer(app, "fusenet_click", foreground=[[5, 5]], fit_scribbles="perhaps")


def test_training_and_a_fit_from_its_weights(app):
    # The training itself: `app.train` would ask a running server to score afterwards.
    result = app.init_trainers()["fusenet_clusters"]({"max_epochs": 1, "device": "cpu"}, app.datastore())
    assert result["images"] == 4
    assert answer(app, "fusenet_clusters", weights="trained").max() >= 1
