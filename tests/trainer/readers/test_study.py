"""The page that readers score: what it shows, what it hides, and what a reader's keys come to in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dicomnode.errors import InputError
from dicomnode.imaging.picture import Cut
from tests.support.chromium import Browser, Page, chromium, needs_chromium
from trainer.readers.scores import read_scores
from trainer.readers.study import QUESTIONS, REFERENCE, Panel, draw_trials, key_path, panels_from, write_page

METHODS = ("nearest", "cubic-dc", "srgan", REFERENCE)
TITLE = "Cuts across the slices"
LEVELS = 8  # grey levels between two panels: no browser rounds that far


def study_panels(cases: Sequence[str] = ("alpha", "beta"), methods: Sequence[str] = METHODS) -> list[Panel]:
    """A panel of its own grey for each case and method, with a chequered frame that smoothing would wash out."""
    panels = []
    for number, (case, method) in enumerate((case, method) for case in cases for method in methods):
        image = np.full((12, 16), (40 + LEVELS * number) % 256, np.uint8)
        image[0, ::2] = image[-1, 1::2] = 255
        panels.append(Panel(case=case, method=method, image=image))
    return panels


class _Source(HTMLParser):
    """What stands in a page, as a browser takes it apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        if tag == "script":
            self.scripts.append("")
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "action", "srcset"}]

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open in {"h1", "h2"}:
            self.headings.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == self._open else self._open


def content(page: Path) -> dict[str, Any]:
    """The data that a page's script works on."""
    found: dict[str, Any] = json.loads(_Source(page.read_text("utf-8")).scripts[0])
    return found


@pytest.mark.parametrize(("views", "methods"), [(1, 1), (1, 5), (2, 2), (2, 6), (3, 4), (7, 6)])
def test_every_panel_comes_once_and_one_of_each_view_again_far_apart(views: int, methods: int) -> None:
    """On the ring that readers enter at any place: no two neighbours of one view, no repeat right after its twin."""
    panels = study_panels([f"case-{number}" for number in range(views)], [f"m{number}" for number in range(methods)])
    for seed in range(20):
        trials = draw_trials(panels, np.random.default_rng(seed))
        times = Counter(trial.panel for trial in trials)
        assert set(times) == set(panels)
        assert Counter(panel.case for panel, count in times.items() if count == 2) == Counter(
            {panel.case: 1 for panel in panels}
        )
        assert sum(trial.is_repeat for trial in trials) == views
        assert len({trial.token for trial in trials}) == len(trials)
        ring = [*trials, trials[0]]
        if views > 1:
            assert all(one.panel.case != other.panel.case for one, other in pairwise(ring))
        elif methods > 1:
            assert all(one.panel is not other.panel for one, other in pairwise(ring))


def test_methods_take_turns_at_being_repeated() -> None:
    trials = draw_trials(study_panels([f"case-{number}" for number in range(8)]), np.random.default_rng(3))
    assert Counter(trial.panel.method for trial in trials if trial.is_repeat) == Counter(dict.fromkeys(METHODS, 2))


def test_the_same_seed_gives_the_same_page_and_another_one_another_order(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        write_page(tmp_path / name, study_panels(), seed=seed, title=TITLE)
    one, again, other = ((tmp_path / name).read_bytes() for name in ("one", "again", "other"))
    assert one == again
    assert [trial["image"] for trial in content(tmp_path / "one")["trials"]] != [
        trial["image"] for trial in content(tmp_path / "other")["trials"]
    ]
    assert one != other
    assert key_path(tmp_path / "one").read_bytes() == key_path(tmp_path / "again").read_bytes()


def test_the_source_of_the_page_names_no_method_and_no_case(tmp_path: Path) -> None:
    methods = (
        "nearest",
        "linear",
        "cubic",
        "cubic-dc",
        "identity",
        "thin",
        "thin-sharp",
        "srcnn",
        "vdsr",
        "paper-model1",
    )
    page = tmp_path / "study.html"
    write_page(page, study_panels(("philips_mprage", "m2307_t2"), (*methods, REFERENCE)), seed=1, title=TITLE)
    source = re.sub(r'data:image/png;base64,[^"]+', "", page.read_text("utf-8"))
    for word in (*methods, REFERENCE, "truth", "philips_mprage", "m2307_t2"):
        assert not re.search(rf"(?<![\w-]){word}(?![\w-])", source, re.IGNORECASE), word
    named = json.loads(key_path(page).read_text("utf-8"))["trials"].values()
    assert {trial["method"] for trial in named} == {*methods, REFERENCE}


def test_the_page_holds_the_panels_pixel_for_pixel_and_nothing_beside_the_pixels(tmp_path: Path) -> None:
    panels = study_panels()
    write_page(tmp_path / "study.html", panels, seed=1, title=TITLE)
    key = json.loads(key_path(tmp_path / "study.html").read_text("utf-8"))
    for trial in content(tmp_path / "study.html")["trials"]:
        picture = base64.b64decode(trial["image"].removeprefix("data:image/png;base64,"))
        said = key["trials"][trial["trial"]]
        (panel,) = (one for one in panels if (one.case, one.method) == (said["case"], said["method"]))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), panel.image)
        assert set(re.findall(rb"IHDR|IDAT|IEND|tEXt|iTXt|zTXt|tIME|pHYs|eXIf", picture)) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_hostile_title_is_shown_and_does_not_run(tmp_path: Path) -> None:
    title = '</title><script>document.title="run"</script>&amp;'
    write_page(tmp_path / "study.html", study_panels(), seed=1, title=title)
    source = _Source((tmp_path / "study.html").read_text("utf-8"))
    assert len(source.scripts) == 2
    assert title in source.headings


def test_the_page_links_to_nothing_and_forbids_itself_to(tmp_path: Path) -> None:
    write_page(tmp_path / "study.html", study_panels(), seed=1, title=TITLE)
    assert _Source((tmp_path / "study.html").read_text("utf-8")).links == []
    assert "default-src 'none'" in (tmp_path / "study.html").read_text("utf-8")


def test_reformats_show_the_last_slice_on_top_and_the_true_shape_of_a_pixel() -> None:
    truth = np.full((10, 20, 30), 1.0, np.float32)
    truth[-1] = 2.0  # the topmost slice
    truth[:, :, 15:] *= 2  # right half
    truth[:, :4] *= 1.5  # first rows
    panels = panels_from([("a", truth, {"same": truth.copy()})], voxel_mm={"a": (3.0, 0.5, 0.75)})
    shown = {(panel.method, panel.view): panel for panel in panels}
    column, row = shown[REFERENCE, Cut.COLUMN], shown[REFERENCE, Cut.ROW]
    assert (column.image.shape, row.image.shape) == ((10, 20), (10, 30))
    assert (column.aspect, row.aspect) == (6.0, 4.0)
    assert (column.image[0] >= column.image[5]).all()
    assert column.image[0, 10] > column.image[5, 10]
    assert column.image[5, 0] > column.image[5, 10]
    assert row.image[5, 20] > row.image[5, 5]
    np.testing.assert_array_equal(shown["same", Cut.COLUMN].image, column.image)


def test_a_method_cannot_move_the_window() -> None:
    """Grey follows the truth's 1st and 99th percentile, whatever a method's own values are."""
    truth = np.linspace(1.0, 2.0, 4000, dtype=np.float32).reshape(10, 20, 20)
    panels = panels_from([("a", truth, {"twice": truth * 2, "darker": truth - 0.25})], cuts=(Cut.ROW,))
    reference, twice, darker = (panel.image.astype(np.float64) for panel in panels)
    assert (twice == 255).all()
    low, high = np.percentile(truth, (1, 99))
    inside = (reference > 0) & (reference < 255) & (darker > 0)
    np.testing.assert_allclose((reference - darker)[inside], 255 * 0.25 / (high - low), atol=1.01)


def test_what_cannot_be_shown_fairly_is_refused_in_a_sentence(tmp_path: Path) -> None:
    page = tmp_path / "study.html"
    flat, broken = np.ones((4, 8, 8), np.float32), np.full((4, 8, 8), np.nan, np.float32)
    good = np.arange(256, dtype=np.float32).reshape(4, 8, 8)
    with pytest.raises(InputError, match="no contrast"):
        panels_from([("a", flat, {})])
    with pytest.raises(InputError, match="net holds values that are no numbers"):
        panels_from([("a", good, {"net": broken})])
    with pytest.raises(InputError, match="no panels"):
        write_page(page, [], seed=1, title=TITLE)
    with pytest.raises(InputError, match="does not show each method once"):
        write_page(page, study_panels()[:-1], seed=1, title=TITLE)
    with pytest.raises(InputError, match='names the method "srgan"'):
        write_page(page, study_panels(), seed=1, title="Is SRGAN better?")
    with pytest.raises(InputError, match="are the limit"):
        write_page(page, study_panels([str(number) for number in range(201)]), seed=1, title=TITLE)
    assert list(tmp_path.iterdir()) == []


# A scripted reader in a real browser.

SHOWN = "!document.getElementById('reading').hidden && !document.getElementById('picture').matches('.loading')"
COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests; each test's study keeps its progress under an id of its own."""
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def opened(browser: Browser, page: Path) -> Page:
    """The study in a new tab of a small laptop's size."""
    tab = browser.new_page()
    tab.resize(1280, 800)
    tab.open(page.as_uri())
    return tab


def begin(tab: Page, reader: str) -> None:
    """Type the code and go, as the page asks for."""
    tab.wait_for("document.activeElement.id === 'reader'")
    tab.type_text(reader)
    tab.press("Enter")
    tab.wait_for(SHOWN)


def screen(tab: Page) -> NDArray[np.uint8]:
    """What the reader sees (row, column)."""
    return np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("L"))


def seen_level(tab: Page) -> int:
    """The grey in the middle of the panel on the screen: which panel of ``study_panels`` it is."""
    tab.wait_for(SHOWN)
    box = tab.value("JSON.stringify(document.getElementById('picture').getBoundingClientRect())")
    place = json.loads(box)
    level = screen(tab)[int(place["y"] + place["height"] / 2), int(place["x"] + place["width"] / 2)]
    return round((int(level) - 40) / LEVELS)


def scores_for(level: int) -> tuple[int, int, int]:
    """This reader's opinion of a panel, by nothing but its looks."""
    return 1 + level % 5, 5 - level % 4, 1 + level * 2 % 5


@needs_chromium
def test_scripted_readers_score_the_page_from_start_to_end_and_the_scores_come_back_right(
    browser: Browser, tmp_path: Path
) -> None:
    """They look at the screen and press keys; the second, seeing a panel again, finds one artefact more."""
    panels = study_panels()
    write_page(tmp_path / "study.html", panels, seed=5, title=TITLE)
    trials = len(panels) + 2
    files: list[Path] = []
    began: list[int] = []
    for reader, is_fickle in (("R1", False), ("R2", True)):
        tab = opened(browser, tmp_path / "study.html")
        if files:
            tab.wait_for("!document.getElementById('finish').hidden")
            tab.press("Enter")  # saves once more; then another reader may begin
            tab.wait_for("!document.getElementById('next').hidden")
            tab.value("document.getElementById('next').click()")
        begin(tab, reader)
        met: Counter[int] = Counter()
        for number in range(trials):
            assert tab.value(COUNT) == f"Panel {number + 1} of {trials}"
            level = seen_level(tab)
            sharpness, artefact, acceptability = scores_for(level)
            artefact -= is_fickle and met[level] == 1
            met[level] += 1
            for score in (sharpness, artefact, acceptability):
                tab.press(str(score))
            began += [level] if number == 0 else []
        assert sorted(met) == list(range(len(panels)))
        tab.wait_for("!document.getElementById('finish').hidden")
        with browser.download(tmp_path) as saved:
            tab.press("Enter")  # the button that saves has the focus
        files += saved
        assert tab.complaints() == []
        assert {address.partition(":")[0] for address in tab.requests()} <= {"file", "data", "blob"}
    assert began[0] != began[1]  # readers begin at different places

    found = read_scores(files, key_path(tmp_path / "study.html"))
    assert [row.reader for row in found.readers] == ["R1", "R2"]
    assert (found.cases, found.panels, found.repeats) == (2, len(panels), 2)
    for row in found.methods:
        levels = [number for number, panel in enumerate(panels) if panel.method == row.method]
        expected = np.mean([scores_for(level)[QUESTIONS.index(row.question)] for level in levels])
        slack = 0.5 if row.question == "artefact" else 0.0  # a second look may be the one that counts
        assert expected - slack <= row.mean <= expected + 1e-9, row
    differences = {row.question: row.intra_reader_difference for row in found.agreement}
    assert differences == {"sharpness": 0.0, "artefact": 0.5, "acceptability": 0.0}
    assert found.agreement[0].inter_reader_icc == pytest.approx(1.0)
    assert [row.repeat_difference for row in found.readers] == pytest.approx([0.0, 1 / 3])
    assert all(row.median_seconds > 0 for row in found.readers)


@needs_chromium
def test_a_reload_in_the_middle_keeps_progress_and_a_score_can_be_changed(browser: Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "study.html", study_panels(("alpha",)), seed=11, title=TITLE)
    tab = opened(browser, tmp_path / "study.html")
    begin(tab, "R-3")
    for key in ("4", "2", "5", "3"):  # a whole panel and the first question of the next
        tab.wait_for(SHOWN)
        tab.press(key)
    before = seen_level(tab)
    tab.reload()
    tab.wait_for(SHOWN)
    assert tab.value(COUNT) == "Panel 2 of 5"
    assert seen_level(tab) == before
    assert tab.value("[...document.querySelectorAll('fieldset')].findIndex((one) => one.matches('.active'))") == 1
    for _ in range(2):  # to the first question, then to the last of the panel before
        tab.press("ArrowLeft")
    tab.wait_for(SHOWN)
    assert tab.value(COUNT) == "Panel 1 of 5"
    tab.press("1")  # was 5
    for _ in range(3):  # forward stops at what is not answered yet
        tab.wait_for(SHOWN)
        tab.press("ArrowRight")
    for key in "11" + "333" * 3:
        tab.wait_for(SHOWN)
        tab.press(key)
    with browser.download(tmp_path) as saved:
        tab.wait_for("document.activeElement.id === 'save'")
        tab.press("Enter")
    answers = json.loads(saved[0].read_text("utf-8"))
    scored = Counter(tuple(one[question] for question in QUESTIONS) for one in answers["answers"])
    assert scored == {(4, 2, 1): 1, (3, 1, 1): 1, (3, 3, 3): 3}
    assert tab.complaints() == []


@needs_chromium
def test_nothing_is_stored_before_the_first_frame(browser: Browser, tmp_path: Path) -> None:
    """Chromium has lost all that a page stored whose script was quicker than the browser's own note of the page."""
    write_page(tmp_path / "study.html", study_panels(("alpha",)), seed=13, title=TITLE)
    tab = browser.new_page()
    tab.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            var calls = [], isDrawn = false;
            requestAnimationFrame(() => { isDrawn = true; });
            for (const name of ["getItem", "setItem", "removeItem"]) {
              const own = Storage.prototype[name];
              Storage.prototype[name] = function (...all) { calls.push([name, isDrawn]); return own.apply(this, all); };
            }
        """,
    )
    tab.open((tmp_path / "study.html").as_uri())
    begin(tab, "R-5")
    calls = tab.value("calls")
    assert {name for name, _ in calls} == {"getItem", "setItem", "removeItem"}
    assert all(is_drawn for _, is_drawn in calls), calls


@needs_chromium
def test_a_held_key_scores_once_and_other_keys_score_nothing(browser: Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "study.html", study_panels(("alpha",)), seed=12, title=TITLE)
    tab = opened(browser, tmp_path / "study.html")
    begin(tab, "R4")
    tab.press("4")
    for _ in range(5):
        tab.press("4", is_held=True)
    for key in ("0", "6", "9", "ArrowRight"):
        tab.press(key)
    pressed = tab.value("document.querySelectorAll('[aria-pressed=true]').length")
    assert (tab.value(COUNT), pressed) == ("Panel 1 of 5", 1)


@needs_chromium
def test_a_panel_is_shown_in_whole_blocks_unsmoothed_and_all_of_the_page_fits(browser: Browser, tmp_path: Path) -> None:
    """What is on the screen is the panel's pixels repeated: the browser changed neither grey nor edge."""
    panels = [
        Panel(
            case="a",
            method=method,
            image=np.random.default_rng(number).integers(0, 256, (60, 100), np.uint8),
            aspect=2.0,
        )
        for number, method in enumerate(("one", "two"))
    ]
    write_page(tmp_path / "study.html", panels, seed=13, title=TITLE)
    tab = opened(browser, tmp_path / "study.html")
    begin(tab, "R5")
    place = json.loads(tab.value("JSON.stringify(document.getElementById('picture').getBoundingClientRect())"))
    top, left = round(place["y"]), round(place["x"])
    size = int(place["width"]) // 100
    on_screen = screen(tab)[top : top + 120 * size, left : left + 100 * size]
    blocks = [np.repeat(np.repeat(panel.image, 2 * size, 0), size, 1) for panel in panels]
    assert any(np.array_equal(on_screen, block) for block in blocks)
    assert f"{size} × {2 * size} screen pixels" in tab.value("document.getElementById('scale').textContent")
    boxes = "['stage', 'questions', 'scale'].map((id) => document.getElementById(id).getBoundingClientRect())"
    assert tab.value(f"{boxes}.every((box) => box.bottom <= innerHeight && box.right <= innerWidth)")
    rooms = "[document.documentElement, document.querySelector('aside'), document.getElementById('stage')]"
    assert tab.value(
        f"{rooms}.every((one) => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth)"
    )


@needs_chromium
def test_even_a_script_in_the_page_cannot_reach_the_network(browser: Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "study.html", study_panels(("alpha",)), seed=14, title=TITLE)
    tab = opened(browser, tmp_path / "study.html")
    refused = tab.value(
        "new Promise((done) => { document.addEventListener('securitypolicyviolation', (event) => "
        "done(event.effectiveDirective)); new Image().src = 'http://127.0.0.1:9/picture.png'; })"
    )
    assert refused == "img-src"
