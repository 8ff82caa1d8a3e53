"""Take the picture of a report that the documentation shows.

``python docs/picture.py REPORT PICTURE`` opens a report (``make demo`` leaves one in
``example_pipeline/results/report.html``) in Debian's Chromium, and writes what a reader sees first
as a PNG of few colours.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1360, "height": 900}
#: A picture of a page of few colours is a third as large so, and looks the same.
COLOURS = 128


def main() -> None:
    """Read the command line and take the picture."""
    report, picture = map(Path, sys.argv[1:])
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light", locale="en-GB")
        page.goto(report.absolute().as_uri())
        page.wait_for_selector("html[data-ready]")
        taken = page.screenshot()
        browser.close()
    image = Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS)
    image.save(picture, optimize=True)


if __name__ == "__main__":
    main()
