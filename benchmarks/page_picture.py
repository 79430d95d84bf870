"""The page as README shows it: `python -m benchmarks.page_picture docs/annotate.png` (needs playwright and chromium).

Serves the sample images from a folder of its own, opens the page at 1280 x 800 pixels in a headless browser, clicks the
optic disc, and keeps what is seen.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from monai_fusenet.data import sample_images

SIZE = {"width": 1280, "height": 800}
MILLISECONDS = 120_000
DISC = (405, 372)  # where it is seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_picture", description=__doc__)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as scratch:
        studies, app = Path(scratch, "samples"), Path(scratch, "app")
        studies.mkdir()
        for item in sample_images():
            Image.open(item["image"]).save(studies / f"{item['name']}.png")
        command = [sys.executable, "-m", "monai_fusenet.label", "--studies", str(studies), "--app", str(app)]
        server = subprocess.Popen([*command, "--port", port])
        try:
            draw(f"http://127.0.0.1:{port}/annotate/", given.picture)
        finally:
            server.terminate()
            server.wait()


def draw(address: str, picture: Path) -> None:
    """Opens the page, clicks, and writes what is seen."""
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        for _ in range(100):
            try:
                page.goto(address)
                break
            except Exception:
                page.wait_for_timeout(500)  # it is not served yet
        expect(page.locator("#images .proposed").first).to_be_visible(timeout=MILLISECONDS)
        page.locator('#images button[data-image="retina"]').click()
        expect(page.locator("#images .proposed").nth(1)).to_be_visible(timeout=MILLISECONDS)
        page.keyboard.press("c")
        page.mouse.click(*DISC)
        expect(page.locator("#status")).to_have_text("ready", timeout=MILLISECONDS)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
