"""Make ``_static/report.png``: the first screens of ``sagefm report`` on the bundled section, as a browser shows them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import sagefm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser import chromium  # noqa: E402

WIDTH, HEIGHT = 1280, 1720


def main() -> None:
    """Write the page, open it, and store the picture with 128 colors, which keeps it small."""
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as tab:
        path = sagefm.report(sagefm.datasets.dlpfc(), Path(folder) / "page.html", title="Human cortex (DLPFC)")
        tab.open(path, width=WIDTH, height=HEIGHT)
        tab.screenshot(Path(folder) / "page.png", full=False)
        picture = Image.open(Path(folder) / "page.png").convert("RGB").quantize(128)
        picture.save(ROOT / "docs" / "_static" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
