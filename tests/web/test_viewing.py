"""The images of a series: who sees them, that each look is written down, and that the pixels are the archive's."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread

from tests.support.page_node import TOKEN, Browser, PageNode, browser, settings_of, token_file


def _look(page: Browser, number: int = 1, query: str = "") -> str:
    text = page.get(f"/series/{number}/images{query}").text
    return re.search(r'data-look="([^"]+)"', text)[1]  # type: ignore[index]


def _views(node: PageNode, number: int = 1) -> list[str]:
    return [event.by for event in node.quiet.explain(number).events if event.kind == "viewed"]


def _picture(page: Browser, what: str, plane: str, place: int, look: str) -> NDArray[np.uint8]:
    got = page.get(f"/series/1/{what}/{plane}/{place}?look={look}")
    assert got.headers["Content-Type"] == "image/png"
    return np.asarray(Image.open(BytesIO(got.body)))


def _archived(node: PageNode, series: int) -> NDArray[np.float64]:
    """The slices as another library reads them, in the order of their places."""
    files = [dcmread(node.data / "archive" / one.file) for one in node.quiet.reader.series_show(series).files]
    files.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    return np.stack([one.pixel_array * float(getattr(one, "RescaleSlope", 1)) for one in files])


def test_nobody_sees_an_image_on_a_page_without_a_token(node: PageNode, open_page: Browser) -> None:
    assert "/series/1/images" not in open_page.get("/series/1").text
    for place in ("/series/1/images", "/series/1/before/column/50?look=x", "/series/1/viewer"):
        got = open_page.get(place)
        assert got.status == 404
        assert "web.token_file" in got.text
    assert _views(node) == []


def test_each_opening_is_an_event_with_the_person_s_name_and_writes_no_file(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Dr. Ada")
    files = {
        path: path.stat().st_mtime_ns for path in node.data.rglob("*") if path.is_file() and "ledger" not in path.name
    }
    look = _look(guarded)
    for what in ("before", "after", "difference"):
        _picture(guarded, what, "column", 50, look)
    assert _views(node) == ["web:Dr. Ada"], "one for the opening, none for each picture"
    _look(guarded, query="?mode=side")
    assert _views(node) == ["web:Dr. Ada"] * 2
    after = {
        path: path.stat().st_mtime_ns for path in node.data.rglob("*") if path.is_file() and "ledger" not in path.name
    }
    assert after == files


def test_a_picture_is_given_only_to_whoever_opened_the_viewer_of_this_series(node: PageNode, guarded: Browser) -> None:
    guarded.enter("Ada")
    look = _look(guarded)
    place = "/series/1/before/column/50"
    for wrong in ("", "x", "1.2", f"{look}0", look.replace(".", "9.", 1)):
        assert guarded.get(f"{place}?look={wrong}").status == 403, wrong
    assert guarded.get(f"/series/3/before/column/50?look={look}").status == 403
    assert guarded.get(place, authorization=f"Bearer {TOKEN}", cookie="").status == 403
    node.quiet.clock.advance(3601)
    assert guarded.get(f"{place}?look={look}").status == 403, "an hour is over"


def test_the_pixels_are_those_of_the_archive_in_one_window(node: PageNode, guarded: Browser) -> None:
    guarded.enter()
    look = _look(guarded)
    thick, thin = _archived(node, 1), _archived(node, 2)
    low, high = np.percentile(thick, (1.0, 99.7))

    def shown(frame: NDArray[np.float64], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resized = Image.fromarray(frame.astype(np.float32)).resize(like.shape[::-1], Image.Resampling.BILINEAR)
        grey: NDArray[np.uint8] = np.clip((np.asarray(resized) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        return grey

    ratio = len(thin) // len(thick)
    for place, slice_ in ((30, 2), (60, 4)):
        before = _picture(guarded, "before", "slice", place, look)
        assert np.abs(before.astype(int) - shown(thick[slice_], before)).max() <= 1
        after = _picture(guarded, "after", "slice", place, look)
        index = int(place / 100 * len(thin))
        assert index // ratio == slice_
        assert np.abs(after.astype(int) - shown(thin[index], after)).max() <= 1
        assert before.max() > 200
    for plane in ("column", "row"):
        pair = [_picture(guarded, what, plane, 50, look) for what in ("before", "after")]
        assert pair[0].shape == pair[1].shape, "one lies over the other"
        assert max(pair[0].shape) == 640


def test_the_difference_is_dark_where_the_promise_was_kept(node: PageNode, guarded: Browser) -> None:
    guarded.enter()
    text = guarded.get("/series/1/images?mode=difference").text
    largest = re.search(r"largest difference in the whole series is ([\d.e-]+) % of the window", text)
    assert largest is not None
    thick, thin = _archived(node, 1), _archived(node, 2)
    ratio = len(thin) // len(thick)
    low, high = np.percentile(thick, (1.0, 99.7))
    ours = thin.reshape(len(thick), ratio, *thin.shape[1:]).mean(axis=1) - thick
    assert float(largest[1]) == pytest.approx(100 * np.abs(ours).max() / (high - low), rel=0.02)
    assert _picture(guarded, "difference", "column", 50, _look(guarded)).max() <= 255 * float(largest[1]) / 1.0 + 1


def test_what_cannot_be_compared_is_a_sentence(guarded: Browser, node: PageNode) -> None:
    guarded.enter()
    assert "Nothing was derived from series 3" in guarded.get("/series/3/images").text
    assert _views(node, 3) == []
    assert guarded.get("/series/1/before/column/1000?look=x").status == 404
    assert guarded.get("/series/1/before/nonsense/10?look=x").status == 404
    file = node.data / "archive" / node.quiet.reader.series_show(1).files[0].file
    file.rename(file.with_suffix(".gone"))
    assert guarded.get("/series/1/images").status == 503
    assert _views(node) == []


def test_the_viewer_of_the_pacs_is_told_the_study_and_no_page_of_ours_names_it(node: PageNode, tmp_path: Path) -> None:
    url = "https://viewer.example/IHEInvokeImageDisplay?requestType=STUDY&studyUID={study_uid}"
    settings = settings_of(node.data, token_file=str(token_file(tmp_path)), viewer_url=url)
    uid = str(dcmread(node.data / "archive" / node.quiet.reader.series_show(1).files[0].file).StudyInstanceUID)
    with browser(settings, node.quiet.clock) as page:
        page.enter("Ada")
        text = page.get("/series/1").text
        assert uid not in text
        assert 'href="/series/1/viewer"' in text
        got = page.get("/series/1/viewer")
        assert (got.status, got.headers["Location"]) == (303, url.replace("{study_uid}", uid))
    assert [event.by for event in node.quiet.explain(1).events if event.kind == "sent_to_viewer"] == ["web:Ada"]
