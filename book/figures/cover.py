"""Draw what other sites show of a link to the book: `python book/figures/cover.py`.

Writes cover.png into book/_static: the title beside the picture of the system. Needs playwright and
Chromium, `python book/figures/cover.py CHROMIUM` another one than is found on the PATH.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
# The size that the Open Graph protocol's readers expect.
WIDTH, HEIGHT = 1200, 630
PAGE = """<body style="margin: 0; display: flex; height: 630px; align-items: center; background:
#fff; color: #1f2933; font-family: sans-serif">
<div style="width: 500px; margin: 0 50px 0 60px"><h1 style="font-size: 92px; margin: 0">slslib</h1>
<p style="font-size: 34px; line-height: 1.35">Audio deepfake detection with XLS-R and SLS:
a library and a book</p></div>
<div style="width: 530px">{picture}</div></body>"""


def main() -> None:
    """Render the picture in Chromium."""
    chromium = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    picture = (HERE / "system-light.svg").read_text(encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content(PAGE.format(picture=picture))
        page.screenshot(path=HERE.parent / "_static" / "cover.png")
        browser.close()


if __name__ == "__main__":
    main()
