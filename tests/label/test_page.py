"""The page in a real browser: opened, clicked, corrected, brushed, accepted, all others proposed, exported."""

import io
import re
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest
from label_tools import Server, dice, draw_volume, picture
from PIL import Image

requests = pytest.importorskip("requests", reason="comes with monailabel")
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect, sync_playwright  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
NAMES = ["a", "b", "c", "d", "e", "f"]
SIZE = {"width": 1280, "height": 800}
SECONDS = 300_000  # milliseconds that a fit or a training may take on a busy machine


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name in NAMES:
        Image.fromarray(drawn(name)[0]).save(folder / f"{name}.png")
    volume, _ = draw_volume()
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1, 2, 1])), folder / "volume.nii.gz")
    return folder


def drawn(name):
    """The picture of a name and its mask; there are four, each of which some names share."""
    return picture("abcd"[NAMES.index(name) % 4])


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory):
    with Server(studies, tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.fixture
def page(server, request):
    """The page as it opens, whose console must stay empty."""
    said, expected = [], getattr(request, "param", ())  # what it may say all the same
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport=SIZE)
        opened.set_default_timeout(SECONDS)
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("dialog", lambda dialog: dialog.accept())
        hosts = set()
        opened.on("request", lambda request: hosts.add(re.match(r"\w+://([^/]*)", request.url)[1]))
        opened.goto(f"{server.url}/annotate/")
        yield opened
        browser.close()
    assert [text for text in said if text not in expected] == []
    assert hosts == {f"127.0.0.1:{server.port}"}


def open_image(page, name):
    page.locator(f'#images button[data-image="{name}"]').click()
    expect(page.locator("#caption")).to_contain_text(f"{name} (", timeout=SECONDS)
    ready(page)


def ready(page):
    expect(page.locator("#status")).to_contain_text("ready", timeout=SECONDS)


def place(page, shape, point):
    """Where a pixel (row, column) of a whole picture lies in the window."""
    box = page.locator("#canvas").bounding_box()
    scale = min(box["width"] / shape[1], box["height"] / shape[0])
    left = box["x"] + (box["width"] - shape[1] * scale) / 2
    top = box["y"] + (box["height"] - shape[0] * scale) / 2
    return left + (point[1] + 0.5) * scale, top + (point[0] + 0.5) * scale


def click(page, shape, point, button="left"):
    page.mouse.click(*place(page, shape, point), button=button)
    ready(page)


def click_by_keyboard(page, arrow):
    """Clicks a step away from the middle, on nothing but what the click itself says."""
    page.keyboard.press("c")
    page.locator("#canvas").focus()
    page.keyboard.press(arrow)
    page.keyboard.press("Enter")
    ready(page)


def becomes(page, name, state):
    expect(page.locator(f'#images button[data-image="{name}"] .state')).to_have_text(state, timeout=SECONDS)


def saved(server, name, tag="final"):
    return np.asarray(Image.open(server.studies / "labels" / tag / f"{name}.png")) > 0


def count(page):
    return int(page.locator("#counter").text_content().split()[0])


def test_the_first_image_opens_with_a_proposal(page, server):
    expect(page.locator("#caption")).to_contain_text("a (90 x 121)", timeout=SECONDS)
    expect(page.locator('#images button[data-image="a"] .state')).to_contain_text("proposed", timeout=SECONDS)
    assert page.locator("#images li").count() == len(NAMES) + 1
    assert page.locator("#propose").is_disabled()
    box = page.locator("#next").bounding_box()
    assert box["y"] + box["height"] < SIZE["height"]  # all of it is seen on a small screen
    assert page.evaluate("document.documentElement.scrollHeight") <= SIZE["height"]


def test_next_comes_to_every_image_before_it_comes_to_any_again(page):
    ready(page)
    seen = []
    for _ in range(len(NAMES) + 1):
        seen.append(page.locator("#caption").text_content().split()[0])
        page.locator("#next").click()
        ready(page)
        expect(page.locator("#caption")).not_to_contain_text(f"{seen[-1]} (")
    assert sorted(seen) == [*NAMES, "volume"]


def test_work_that_is_not_accepted_is_not_lost_without_a_question(page):
    asked = []
    page.on("dialog", lambda dialog: asked.append(dialog.type))
    open_image(page, "a")
    page.reload()
    assert asked == []
    open_image(page, "a")
    click(page, drawn("a")[1].shape, (6, 8))
    open_image(page, "b")
    page.reload()
    assert asked == ["beforeunload"]


def test_a_click_a_brush_and_undo_end_in_the_mask_that_is_accepted(page, server):
    open_image(page, "a")
    truth = drawn("a")[1]
    middle = np.argwhere(truth).mean(axis=0).round().astype(int)
    page.keyboard.press("c")
    click(page, truth.shape, middle)
    page.keyboard.press("2")
    click(page, truth.shape, (6, 8))
    page.keyboard.press("3")
    click(page, truth.shape, middle)
    page.keyboard.press("u")  # the eraser
    page.locator("#accept").click()
    becomes(page, "a", "accepted")
    mask = saved(server, "a")
    assert mask[6, 8]
    assert mask[tuple(middle)]
    brushed = mask & ~truth
    assert 60 < brushed[:16, :20].sum() < 250  # a disc of radius 8, cut by the border
    mask[:16, :20] = False
    assert dice(mask, truth) > 0.9


def test_a_right_click_takes_away_and_a_rejected_mask_is_empty(page, server):
    open_image(page, "b")
    truth = drawn("b")[1]
    before = saved(server, "b", "original")
    edge = tuple(np.argwhere(before)[0])
    click(page, truth.shape, edge, button="right")
    page.keyboard.press("a")
    becomes(page, "b", "accepted")
    assert not saved(server, "b")[edge]
    open_image(page, "b")
    page.keyboard.press("r")
    becomes(page, "b", "rejected")


def test_a_click_that_is_not_answered_yet_counts(page, server):
    open_image(page, "d")
    truth = drawn("d")[1]
    page.keyboard.press("c")
    ready(page)

    def late(route):
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/annotate/click", late)
    page.mouse.click(*place(page, truth.shape, np.argwhere(truth).mean(axis=0)))
    page.keyboard.press("a")
    becomes(page, "d", "accepted")
    assert dice(saved(server, "d"), truth) > 0.9


REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


@pytest.mark.parametrize("page", [(REFUSED,)], indirect=True)
def test_an_image_that_cannot_be_opened_is_not_taken_for_the_one_before(page):
    open_image(page, "a")
    page.route("**/annotate/image?image=e", lambda route: route.fulfill(status=400, json={"detail": "it is damaged"}))
    before = page.locator("#counter").text_content()
    page.locator('#images button[data-image="e"]').click()
    expect(page.locator("#caption")).to_have_text("e cannot be opened", timeout=SECONDS)
    expect(page.locator("#error")).to_have_text("it is damaged")
    page.keyboard.press("r")
    page.wait_for_timeout(2000)
    assert page.locator("#counter").text_content() == before
    page.unroute("**/annotate/image?image=e")


def test_a_first_click_inside_the_mask_asks_for_another_one(page, server):
    open_image(page, "e")
    truth = drawn("e")[1]
    middle = np.argwhere(truth).mean(axis=0)
    part = truth.copy()
    part[: round(middle[0]) - 3] = False
    accepted = {"image": "e"}
    body = part.astype(np.uint8).tobytes()
    assert requests.post(f"{server.url}/annotate/accept", params=accepted, data=body, timeout=60).status_code == 200
    open_image(page, "f")
    open_image(page, "e")
    click(page, truth.shape, (middle[0] + 6, middle[1]))
    page.keyboard.press("a")
    ready(page)
    page.wait_for_timeout(1000)
    assert dice(part, truth) < 0.8
    assert dice(saved(server, "e"), truth) > 0.9


def test_the_keyboard_alone_is_enough(page, server):
    open_image(page, "c")
    truth = drawn("c")[1]
    click_by_keyboard(page, "ArrowRight")
    page.keyboard.press("a")
    becomes(page, "c", "accepted")
    assert dice(saved(server, "c"), truth) > 0.9


def test_a_volume_is_seen_from_three_sides_and_clicked(page, server):
    open_image(page, "volume")
    assert page.locator("#views button").all_text_contents() == ["axial", "coronal", "sagittal"]
    expect(page.locator("#slice-number")).to_have_text("13 / 24")
    page.keyboard.press("PageDown")
    expect(page.locator("#slice-number")).to_have_text("14 / 24")
    page.keyboard.press("v")
    expect(page.locator('#views button[aria-pressed="true"]')).to_have_text("coronal")
    page.keyboard.press("v")
    page.keyboard.press("v")
    click_by_keyboard(page, "ArrowUp")
    page.keyboard.press("a")
    becomes(page, "volume", "accepted")
    mask = np.asarray(nib.load(server.studies / "labels" / "final" / "volume.nii.gz").dataobj) > 0
    assert dice(mask, draw_volume()[1]) > 0.9


def test_five_accepted_masks_propose_all_others_and_the_export_equals_the_servers(page, server):
    for name in ("a", "b", "c", "d", "e"):
        open_image(page, name)
        page.keyboard.press("c")
        truth = drawn(name)[1]
        click(page, truth.shape, np.argwhere(truth).mean(axis=0).round().astype(int))
        page.keyboard.press("a")
        becomes(page, name, "accepted")
    propose = page.locator("#propose")
    expect(propose).to_have_text("Propose all others")
    propose.click()
    expect(page.locator("#status")).to_contain_text("training", timeout=SECONDS)
    ready(page)
    expect(page.locator("#status")).to_contain_text("expected Dice")
    assert page.locator("#error").is_hidden()
    open_image(page, "f")
    page.keyboard.press("a")
    becomes(page, "f", "accepted")
    assert dice(saved(server, "f"), drawn("f")[1]) > 0.8
    with page.expect_download() as download:
        page.locator("#export").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert {f"{name}_mask.png" for name in NAMES} <= set(archive.namelist())
        for name in NAMES:
            exported = np.asarray(Image.open(archive.open(f"{name}_mask.png"))) > 0
            assert np.array_equal(exported, saved(server, name))


def test_a_server_that_is_gone_is_told_in_a_sentence(studies, tmp_path):
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport=SIZE)
        with Server(studies, tmp_path) as running:
            opened.goto(f"{running.url}/annotate/")
            expect(opened.locator("#counter")).to_contain_text("accepted", timeout=SECONDS)
        expect(opened.locator("#error")).to_have_text(
            "The server does not answer. Is it still running?", timeout=30_000
        )
        browser.close()
