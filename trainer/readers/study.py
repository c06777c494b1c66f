"""A reader study as one HTML page: whoever opens it scores panels 1 to 5 and does not know which method made them.

In: panels, one picture of each method for each view of each case. Out: the page and, beside it, the key that says which
trial showed what. The page holds trial tokens only: no case, no method, no patient text, and it loads nothing.
The design is absolute category rating with a hidden reference (ITU-T P.910): every panel stands alone, the truth is one
of the methods, and one panel of each view comes again so that a reader can be held against himself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicomnode import durable
from dicomnode.errors import InputError
from dicomnode.imaging.body import body_box, body_mask, body_scale
from dicomnode.imaging.picture import Cut

REFERENCE = "reference"  # the method that is the truth
QUESTIONS = ("sharpness", "artefact", "acceptability")  # in the order in which they are asked
LOWEST, HIGHEST = 1, 5
WINDOW_PERCENTILES = (1.0, 99.0)  # of the truth's body: no method's own values set the window
KEY_SUFFIX = ".key.json"
KEY_FORMAT = "dicomnode-reader-key"
ANSWERS_FORMAT = "dicomnode-reader-answers"  # what the page saves
READER_PATTERN = r"[A-Za-z0-9\-]{1,16}"  # a code, no name; the hyphen escaped because browsers read it with the flag v
MOST_TRIALS = 1000  # a reader manages about 200 in an hour; more is a mistake, and a page of gigabytes
LARGEST_SIDE = 2048  # pixels of a panel
TOKEN_BYTES = 6  # of a trial

# The words beside the keys. Five is always the best, so that a high mean is a good method.
WORDING: tuple[tuple[str, str, tuple[str, str, str, str, str]], ...] = (
    (
        "sharpness",
        "How sharp are edges and small structures?",
        ("very blurred", "blurred", "fair", "sharp", "very sharp"),
    ),
    (
        "artefact",
        "How much do steps, ringing, noise or invented texture disturb?",
        ("far too much", "much", "some", "little", "not at all"),
    ),
    (
        "acceptability",
        "Would you accept this image for diagnosis?",
        ("no", "hardly", "with limits", "yes", "yes, fully"),
    ),
)
assert tuple(name for name, _, _ in WORDING) == QUESTIONS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One picture that a reader scores."""

    case: str  # our own word for the subject; stays in the key
    method: str
    image: NDArray[np.uint8]  # (H, W), in display order
    view: str = ""  # where a case is shown in more than one way
    aspect: float = 1.0  # height ÷ width of a pixel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One showing of a panel."""

    token: str  # all that page and answers say of it
    panel: Panel
    is_repeat: bool  # the panel is shown elsewhere too, and that showing counts


def panels_from(
    cases: Iterable[tuple[str, NDArray[np.float32], Mapping[str, NDArray[np.float32]]]],
    *,
    voxel_mm: Mapping[str, tuple[float, float, float]] | None = None,
    cuts: Sequence[Cut] = (Cut.COLUMN, Cut.ROW),
) -> list[Panel]:
    """Reformats across the slices: of each case (name, truth, method → result; all (D, H, W), slices first).

    Across the slices is where methods differ; in the plane of the slices they show the same pixels. Each cut goes
    through the middle of the truth's body and is cropped to it, at the truth's window; the last slice is at the top,
    which is superior for an axial stack. ``voxel_mm``: distance of slices, rows and columns of a case, for
    the shape of its pixels; square where it is not named.
    """
    panels = []
    for case, truth, results in cases:
        assert REFERENCE not in results, "the truth is handed in as such"
        shown = {REFERENCE: truth, **results}
        for method, voxels in shown.items():
            assert voxels.shape == truth.shape, "methods are compared on the truth's grid"
            if not np.isfinite(voxels).all():
                raise InputError(f"Case {case} cannot be shown to readers: {method} holds values that are no numbers.")
        mask = body_mask(truth / np.float32(body_scale(truth)))
        window = _window(case, truth[mask] if mask.any() else truth)
        box = body_box(mask)
        across_mm, row_mm, column_mm = (voxel_mm or {}).get(case, (1.0, 1.0, 1.0))
        for method, voxels in shown.items():
            for cut in cuts:
                place = _middle(mask, cut)
                plane = voxels[:, :, place][box[0], box[1]] if cut is Cut.COLUMN else voxels[:, place][box[0], box[2]]
                along_mm = row_mm if cut is Cut.COLUMN else column_mm
                panels.append(
                    Panel(
                        case=case,
                        method=method,
                        view=cut.value,
                        image=_grey(plane[::-1], window),
                        aspect=across_mm / along_mm,
                    )
                )
    return panels


def write_page(path: Path, panels: Sequence[Panel], *, seed: int, title: str) -> None:
    """The page, and beside it its key, which ``read_scores`` needs and no reader may see.

    The same panels, seed and title give the same page, byte for byte. Raises InputError where panels do not make a
    balanced study, where the title would tell a reader what is compared, or where one of the two files is there.
    """
    refuse_taken(path)
    _check(panels, title)
    fingerprint = _fingerprint(panels, seed, title)
    study = fingerprint.hex()[:16]
    trials = draw_trials(panels, np.random.default_rng(list(fingerprint)))
    key = {
        "format": KEY_FORMAT,
        "version": 1,
        "study": study,
        "seed": seed,
        "title": title,
        "trials": {
            trial.token: {
                "case": trial.panel.case,
                "view": trial.panel.view,
                "method": trial.panel.method,
                "is_repeat": trial.is_repeat,
            }
            for trial in sorted(trials, key=lambda one: one.token)
        },
    }
    page = _render(trials, study=study, seed=seed, title=title).encode()
    # The key first: a page without its key would be scored for nothing.
    durable.write_file(key_path(path), [(json.dumps(key, indent=1, ensure_ascii=False) + "\n").encode()])
    durable.write_file(path, [page])
    durable.sync_folder(path.parent)


def refuse_taken(page: Path) -> None:
    """InputError where the page or its key is there: without its key an earlier study can never be scored."""
    for path in (page, key_path(page)):
        if path.exists():
            raise InputError(f"{path} is there already; nothing was written.", hint="Name a new file.")


def key_path(page: Path) -> Path:
    """The path of a page's key: ``study.html.key.json`` beside ``study.html``."""
    return page.with_name(page.name + KEY_SUFFIX)


def draw_trials(panels: Sequence[Panel], rng: np.random.Generator) -> list[Trial]:
    """All panels and one repeat of each view, in an order that gives nothing away.

    Views are dealt in rounds, so that neighbours are of different views wherever there are two: a reader who saw two
    methods of one view in a row would compare them, not score them. The two showings of a repeat are rounds apart. Read
    as a ring, because every reader begins elsewhere in it (the page turns it by the reader's code).
    """
    views: dict[tuple[str, str], list[Panel]] = {}
    for panel in panels:
        views.setdefault((panel.case, panel.view), []).append(panel)
    first = int(rng.integers(len(panels)))  # whose turn it is to be repeated: methods take turns
    decks = [_deck(view, (first + number) % len(view), rng) for number, view in enumerate(views.values())]
    order: list[tuple[int, tuple[Panel, bool]]] = []
    hands = list(zip(*decks, strict=True))
    for number, hand in enumerate(hands):
        turn = rng.permutation(len(hand))
        while len(hand) > 1 and order and _meets(turn, order, is_last=number == len(hands) - 1):
            turn = rng.permutation(len(hand))
        order.extend((int(view), hand[view]) for view in turn)
    tokens: set[str] = set()
    while len(tokens) < len(order):
        tokens.add(rng.bytes(TOKEN_BYTES).hex())
    mixed = rng.permutation(sorted(tokens))
    return [
        Trial(token=str(token), panel=panel, is_repeat=is_repeat)
        for token, (_, (panel, is_repeat)) in zip(mixed, order, strict=True)
    ]


def _deck(view: Sequence[Panel], repeated: int, rng: np.random.Generator) -> list[tuple[Panel, bool]]:
    """The panels of one view and one of them again, shuffled until the two lie a third of the ring apart."""
    cards = [*range(len(view)), repeated]
    apart = len(cards) // 3
    while True:
        mixed = [cards[place] for place in rng.permutation(len(cards))]
        here, there = (place for place, card in enumerate(mixed) if card == repeated)
        if min(there - here, len(cards) - there + here) >= apart:
            return [(view[card], place == there) for place, card in enumerate(mixed)]


def _meets(turn: NDArray[np.int64], order: list[tuple[int, tuple[Panel, bool]]], *, is_last: bool) -> bool:
    """Would one view come twice in a row: at the seam of two rounds, or where the ring closes?"""
    return bool(turn[0] == order[-1][0] or (is_last and turn[-1] == order[0][0]))


def _check(panels: Sequence[Panel], title: str) -> None:
    """A study is balanced, of a size that can be read, and its title gives nothing away."""
    if not panels:
        raise InputError("There is nothing to show to readers: no panels.")
    shown: dict[tuple[str, str], list[str]] = {}
    for panel in panels:
        assert panel.image.dtype == np.uint8
        assert panel.image.ndim == 2
        assert panel.image.size
        assert 0 < panel.aspect < LARGEST_SIDE
        if max(panel.image.shape) > LARGEST_SIDE:
            raise InputError(f"A panel of case {panel.case} is wider or higher than {LARGEST_SIDE} pixels.")
        shown.setdefault((panel.case, panel.view), []).append(panel.method)
    methods = sorted(next(iter(shown.values())))
    for (case, _), own in shown.items():
        if sorted(own) != methods or len(set(own)) != len(own):
            raise InputError(
                f"Case {case} does not show each method once, as the first case does.",
                hint="Every method must be judged on every case, or their means cannot be compared.",
            )
    if len(panels) + len(shown) > MOST_TRIALS:
        raise InputError(
            f"The study has {len(panels) + len(shown)} panels to score; {MOST_TRIALS} are the limit.",
            hint="Take fewer cases or methods.",
        )
    for method in methods:
        if re.search(rf"(?<![\w-]){re.escape(method)}(?![\w-])", title, re.IGNORECASE):
            raise InputError(
                f'The title of the study names the method "{method}"; readers must not know what is compared.'
            )


def _fingerprint(panels: Sequence[Panel], seed: int, title: str) -> bytes:
    """Digest all that decides the page. The order comes from it too, so the seed alone tells a reader nothing."""
    whole = hashlib.sha256(json.dumps([seed, title]).encode())
    for panel in panels:
        facts = [panel.case, panel.view, panel.method, panel.aspect, panel.image.shape]
        whole.update(json.dumps(facts).encode())
        whole.update(np.ascontiguousarray(panel.image).tobytes())
    return whole.digest()


def _render(trials: Sequence[Trial], *, study: str, seed: int, title: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.readers", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    content = {
        "format": ANSWERS_FORMAT,
        "study": study,
        "seed": seed,
        "reader_pattern": READER_PATTERN,
        "questions": [{"name": name, "asks": asks, "words": words} for name, asks, words in WORDING],
        "trials": [
            {
                "trial": trial.token,
                "image": f"data:image/png;base64,{base64.b64encode(_png(trial.panel.image)).decode()}",
                "width": trial.panel.image.shape[1],
                "height": trial.panel.image.shape[0],
                "aspect": trial.panel.aspect,
            }
            for trial in trials
        ],
    }
    return environment.get_template("study.html").render(title=title, content=content)


def _png(image: NDArray[np.uint8]) -> bytes:
    """Pixels and nothing beside them: no comment, no time, no resolution."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _window(case: str, body: NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(body, WINDOW_PERCENTILES))
    if high <= low:
        raise InputError(f"Case {case} cannot be shown to readers: its truth has no contrast.")
    return low, high


def _grey(plane: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    levels = np.clip((plane - low) / (high - low), 0.0, 1.0)
    return np.ascontiguousarray(np.rint(255 * levels).astype(np.uint8))


def _middle(mask: NDArray[np.bool_], cut: Cut) -> int:
    """The column or row that halves the body; the middle one where there is no body."""
    others = (0, 1) if cut is Cut.COLUMN else (0, 2)
    cumulative = np.cumsum(mask.sum(axis=others))
    if not cumulative[-1]:
        return len(cumulative) // 2
    return int(np.searchsorted(cumulative, cumulative[-1] / 2))
