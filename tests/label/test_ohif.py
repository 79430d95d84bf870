"""OHIF, as MONAI Label brings it, in a real browser on a real DICOMweb server: it lists the models and draws a mask.

In a network of its own, as test_dicomweb.py.
"""

import io
import shutil
import socket

import numpy as np
import pytest
from label_tools import Server, dice
from PIL import Image
from skimage.measure import label

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import sync_playwright

from benchmarks.ohif_picture import (
    ORTHANC,
    SIZE,
    SOFTWARE_RENDERING,
    ask,
    draw_body,
    open_study,
    orthanc,
    send_ct,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("Orthanc") is None, reason="needs Debian's orthanc and orthanc-dicomweb"),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
    pytest.mark.skipif([name for _, name in socket.if_nameindex()] != ["lo"], reason="needs a network of its own"),
]
KIDNEY = (20, 96, 134)  # slice, row and column of the middle of one


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The UID of a drawn CT in a running Orthanc."""
    with orthanc(tmp_path_factory.mktemp("orthanc")):
        yield send_ct(*draw_body())


@pytest.fixture
def page(study, tmp_path):
    """OHIF with the study, its panel connected; `page.saw` holds what failed but for fonts of another host."""
    server = Server(tmp_path, tmp_path, preset="ct")
    server.command[server.command.index("--studies") + 1] = f"{ORTHANC}/dicom-web"
    with server, sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE_RENDERING)
        opened = browser.new_page(viewport=SIZE)
        failed = []
        opened.on("pageerror", lambda error: failed.append(str(error)))
        open_study(opened, server.url, study)
        yield opened
        browser.close()
    assert failed == []


def mask_of(nrrd, shape):
    """The mask (slices, rows, columns) of an uncompressed NRRD of bytes."""
    header, _, voxels = nrrd.partition(b"\n\n")
    assert b"encoding: raw" in header
    assert b"type: unsigned char" in header
    return np.frombuffer(voxels, dtype=np.uint8).reshape(shape) > 0


def coloured(page):
    """Where the first viewport is neither grey nor of the frame's blue: (rows, columns)."""
    box = page.locator("canvas").first.bounding_box()
    place = {name: box[name] for name in ("x", "y", "width", "height")}
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=place))).convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red - green > 40) & (blue - green > 40)


def test_the_panel_lists_the_models_and_draws_a_mask_and_the_answer_to_a_click(page):
    units, _ = draw_body()
    bright = units > 120
    models = page.locator("select").all_inner_texts()
    assert any("fusenet_clusters" in text and "fusenet_mask" in text for text in models)
    assert any("fusenet_click" in text for text in models)
    assert coloured(page).sum() == 0
    mask = mask_of(ask(page, "Auto-Segmentation", "fusenet_mask"), units.shape)
    assert dice(mask, bright) > 0.8
    drawn = coloured(page)
    assert drawn.sum() > 500
    box = page.locator("canvas").first.bounding_box()
    scale = box["width"] / units.shape[2] * 0.9  # about, for OHIF leaves a border
    assert drawn.sum() < 2 * bright[20].sum() * scale**2

    page.get_by_text("Point Prompts").click()
    page.wait_for_timeout(1000)  # OHIF takes a while to open a section and to take up a tool
    page.get_by_text("foreground", exact=True).locator("visible=true").first.click()
    page.wait_for_timeout(1000)
    rows, columns = np.nonzero(drawn)
    right = columns > np.median(columns) + 20
    place = (rows[right].mean(), columns[right].mean())  # of a kidney, as it is drawn
    page.mouse.click(box["x"] + place[1], box["y"] + place[0])
    page.wait_for_timeout(1000)
    answer = mask_of(ask(page, "Point Prompts", "fusenet_click"), units.shape)
    parts = label(bright)
    assert dice(answer, parts == parts[KIDNEY]) > 0.8
    assert coloured(page).sum() < 0.7 * drawn.sum()  # the others are no longer drawn
