"""Draw docs/page-*.png: each page of the web page at two sizes, over a node that is filled as the tests fill one.

``PYTHONPATH=. python docs/make_page.py`` needs Chromium and takes some minutes: it trains a tiny model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlencode

from dicomnode.web.first import FIELDS
from tests.support.chromium import Page, chromium
from tests.support.served_page import enter, served_page
from tests.support.training_runs import RUN, fill_runs

HELD = "Model thin is not here with the digest that was asked for."
FILLED = {name: example for name, (_, example) in FIELDS.items()}
DOCS = Path(__file__).parent
SIZES = {"": (1180, 860), "-phone": (390, 780)}
PLACES = {
    "today": "/",
    "list": "/series",
    "series": "/series/1",
    "images": "/series/1/images",
    "confirm": "/series/7/retry",
    "scanners": "/scanners",
    "protocol": "/scanners/4",
    "models": "/models",
    "runs": "/runs",
    "run": f"/runs/{RUN}",
    "first": f"/first?{urlencode(FILLED)}",
    "rehearse": "/first/rehearse/pacs",
}
WEEKS = 16  # of what two scanners sent
STEPS = (800, 100)  # of the tiny model
# The settings of these pages lie in a temporary folder; a reader expects them where a node of a hospital has them.
SHOWN = (
    "document.querySelectorAll('code').forEach((one) => {{"
    " one.textContent = one.textContent.replaceAll('{folder}', '/etc/dicomnode') }})"
)
DARK = ("today", "scanners")  # also drawn as it looks at night


def main() -> None:
    """Draw all of them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served_page(Path(folder, "node"), HELD, weeks=WEEKS, runs=_runs(Path(folder))) as served,
        chromium(Path(folder, "chromium")) as browser,
    ):
        page = browser.new_page()
        _enter(page, served.url)
        for name, place in PLACES.items():
            for suffix, (width, height) in SIZES.items():
                page.resize(width, height)
                page.open(served.url + place)
                page.wait_for("[...document.images].every((one) => one.complete)")
                page.value(SHOWN.format(folder=f"{folder}/node"))
                (DOCS / f"page-{name}{suffix}.png").write_bytes(page.screenshot())
        page.resize(*SIZES[""])
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        for name in DARK:
            page.open(served.url + PLACES[name])
            (DOCS / f"page-{name}-dark.png").write_bytes(page.screenshot())


def _runs(folder: Path) -> Path:
    fill_runs(folder / "runs", folder / "studies", STEPS)
    return folder / "runs"


def _enter(page: Page, url: str) -> None:
    page.open(f"{url}/enter")
    (DOCS / "page-enter.png").write_bytes(page.screenshot())
    enter(page, url)


if __name__ == "__main__":
    main()
