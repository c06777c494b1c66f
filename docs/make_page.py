"""Draw docs/page-*.png: each page of the web page at two sizes, over a node that is filled as the tests fill one.

``PYTHONPATH=. python docs/make_page.py`` needs Chromium and takes a minute.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.chromium import Page, chromium
from tests.support.served_page import enter, served_page

HELD = "Model thin is not here with the digest that was asked for."
DOCS = Path(__file__).parent
SIZES = {"": (1180, 860), "-phone": (390, 780)}
PLACES = {
    "today": "/",
    "list": "/series",
    "series": "/series/1",
    "images": "/series/1/images",
    "confirm": "/series/7/retry",
}
DARK = ("today",)  # also drawn as it looks at night


def main() -> None:
    """Draw all of them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served_page(Path(folder, "node"), HELD) as served,
        chromium(Path(folder, "chromium")) as browser,
    ):
        page = browser.new_page()
        _enter(page, served.url)
        for name, place in PLACES.items():
            for suffix, (width, height) in SIZES.items():
                page.resize(width, height)
                page.open(served.url + place)
                page.wait_for("[...document.images].every((one) => one.complete)")
                (DOCS / f"page-{name}{suffix}.png").write_bytes(page.screenshot())
        page.resize(*SIZES[""])
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        for name in DARK:
            page.open(served.url + PLACES[name])
            (DOCS / f"page-{name}-dark.png").write_bytes(page.screenshot())


def _enter(page: Page, url: str) -> None:
    page.open(f"{url}/enter")
    (DOCS / "page-enter.png").write_bytes(page.screenshot())
    enter(page, url)


if __name__ == "__main__":
    main()
