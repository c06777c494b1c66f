"""Score readers' answers: mean opinions, how sure they are, and how far readers agree with each other and themselves.

In: the answer files that readers saved from a page of ``study``, and that page's key. Out: scores for each method
and question. A file that is damaged, incomplete or of another study stops everything: nothing is half counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from dicomnode.errors import InputError
from dicomnode.strict_toml import StrictModel
from trainer.readers.study import HIGHEST, KEY_SUFFIX, LOWEST, MOST_TRIALS, QUESTIONS, READER_PATTERN, REFERENCE

LARGEST_FILE_BYTES = 4 << 20  # a thousand answers are 0.2 MB
RESAMPLES = 2000
INTERVAL_PERCENTILES = (2.5, 97.5)
BOOTSTRAP_SEED = 0

ScoreArray = NDArray[np.float64]


class _KeyTrial(StrictModel):
    case: str
    view: str
    method: str
    is_repeat: bool


class _Key(StrictModel):
    format: Literal["dicomnode-reader-key"]
    version: Literal[1]
    study: str
    seed: int
    title: str
    trials: dict[str, _KeyTrial] = Field(min_length=1, max_length=MOST_TRIALS)


class _Answer(StrictModel):
    trial: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    sharpness: int = Field(ge=LOWEST, le=HIGHEST)
    artefact: int = Field(ge=LOWEST, le=HIGHEST)
    acceptability: int = Field(ge=LOWEST, le=HIGHEST)

    @property
    def scores(self) -> tuple[int, ...]:
        return tuple(int(getattr(self, question)) for question in QUESTIONS)


class _Screen(StrictModel):
    width: int
    height: int
    pixel_ratio: float
    pixels_per_pixel: int


class _Answers(StrictModel):
    format: Literal["dicomnode-reader-answers"]
    version: Literal[1]
    study: str
    seed: int
    reader: str = Field(pattern=f"^{READER_PATTERN}$")
    screen: _Screen
    answers: list[_Answer] = Field(max_length=MOST_TRIALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The interval that holds 95 % of the bootstrap's means."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """One method and one question, over all readers and cases; repeats are left out."""

    method: str
    question: str
    mean: float  # the mean opinion score, 1…5, 5 is best
    interval: Interval | None  # None where there is one case and one reader
    sd: float  # of the single scores
    to_reference: float | None  # mean − the truth's mean; None for the truth and where there is none
    to_reference_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One question: readers against each other, and against themselves."""

    question: str
    inter_reader_icc: float | None  # ICC(2,1), absolute agreement; None with one reader
    intra_reader_difference: float  # mean |first − second| over the repeats of all readers
    intra_reader_kappa: float | None  # quadratic weights; None where no disagreement was possible by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRow:
    """One reader."""

    reader: str  # the code that the reader chose
    mean: float  # over all questions, repeats left out: severe or mild
    repeat_difference: float  # mean |first − second| over repeats and questions
    median_seconds: float  # a panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The results of one study."""

    study: str
    title: str
    readers: tuple[ReaderRow, ...]
    cases: int
    panels: int  # each reader scored, repeats left out
    repeats: int
    methods: tuple[MethodScore, ...]  # by method, then by question
    agreement: tuple[Agreement, ...]


class _Table(NamedTuple):
    """All answers by what they were about."""

    methods: list[str]
    cases: NDArray[np.int64]  # of each view: which case it belongs to
    panels: ScoreArray  # (reader, view, method, question)
    repeats: NDArray[np.int64]  # (reader, repeat, 2, question): the showing that counts, and the other


class _Draws(NamedTuple):
    """Counts: how often each draw of the bootstrap holds each reader and each view."""

    readers: ScoreArray  # (draw, reader)
    views: ScoreArray  # (draw, view)


def find_key(files: Sequence[Path]) -> tuple[list[Path], Path]:
    """Answer files and key, told apart by name; where no key is among them, the one beside the first file."""
    answered = [file for file in files if not file.name.endswith(KEY_SUFFIX)]
    keys = [file for file in files if file.name.endswith(KEY_SUFFIX)]
    if not keys and answered:
        keys = sorted(answered[0].parent.glob(f"*{KEY_SUFFIX}"))
    if len(keys) != 1:
        raise InputError(
            f"Among or beside the files of --reader-scores are {len(keys) or 'no'} keys; one is needed.",
            hint=f"Name the readers' files and the one key that was written beside the page, PAGE.html{KEY_SUFFIX}.",
        )
    return answered, keys[0]


def read_scores(files: Sequence[Path], key: Path) -> Scores:
    """Mean opinion scores of a study from its readers' answer files.

    Raises InputError, one sentence, where a file is no answer file, lacks an answer, belongs to another study, or where
    a reader comes twice.
    """
    if not files:
        raise InputError("No file of answers was given.")
    known = _parse(_Key, key, "the key of a reader study", "The key lies beside the page, as PAGE.key.json.")
    answered = [_answers(file, known) for file in files]
    for reader, times in Counter(own.reader for own in answered).items():
        if times > 1:
            raise InputError(
                f"{times} of the files are of reader {reader}; nothing was counted.",
                hint="Give one file of each reader; where two readers chose one code, change it in one of the files.",
            )
    answered.sort(key=lambda own: own.reader)
    table = _table(known, answered)
    draws = _draws(table, np.random.default_rng(BOOTSTRAP_SEED))
    _, views, methods, questions = table.panels.shape
    return Scores(
        study=known.study,
        title=known.title,
        readers=tuple(_reader_row(own, table, place) for place, own in enumerate(answered)),
        cases=int(table.cases.max()) + 1,
        panels=views * methods,
        repeats=table.repeats.shape[1],
        methods=tuple(
            _method_score(table, draws, method, question) for method in range(methods) for question in range(questions)
        ),
        agreement=tuple(_agreement(table, question) for question in range(questions)),
    )


def score_lines(scores: Scores) -> list[str]:
    """The study for a terminal."""
    width = max(len("method"), *(len(row.method) for row in scores.methods))
    lines = [
        f"{scores.title}. Readers: {len(scores.readers)}, cases: {scores.cases}, panels: {scores.panels}, "
        f"hidden repeats: {scores.repeats}. Mean [95 % interval], 5 is best.",
        "",
        "  ".join([f"{'method':{width}}", *(f"{question:20}" for question in QUESTIONS)]).rstrip(),
    ]
    for method in dict.fromkeys(row.method for row in scores.methods):
        own = [row for row in scores.methods if row.method == method]
        lines.append("  ".join([f"{method:{width}}", *(f"{_mean(row):20}" for row in own)]).rstrip())
    if any(row.to_reference is not None for row in scores.methods):
        lines += ["", f"against the hidden {REFERENCE}"]
        for method in dict.fromkeys(row.method for row in scores.methods if row.to_reference is not None):
            own = [row for row in scores.methods if row.method == method]
            lines.append("  ".join([f"{method:{width}}", *(f"{_difference(row):20}" for row in own)]).rstrip())
    lines.append("")
    for row in scores.agreement:
        lines.append(
            f"{row.question}: between readers ICC(2,1) {_or_none(row.inter_reader_icc)}; same panel again: "
            f"mean difference {row.intra_reader_difference:.2f}, weighted kappa {_or_none(row.intra_reader_kappa)}"
        )
    lines += [
        f"reader {row.reader}: mean {row.mean:.2f}, repeats differ by {row.repeat_difference:.2f}, "
        f"{row.median_seconds:.1f} s a panel"
        for row in scores.readers
    ]
    if len(scores.readers) == 1:
        lines.append("One reader: nothing is said about other readers.")
    if scores.cases == 1:
        lines.append("One case: nothing is said about other cases.")
    return lines


def intraclass_correlation(ratings: ScoreArray) -> float | None:
    """ICC(2,1) of (target, reader): two-way random effects, absolute agreement, one reader (Shrout and Fleiss 1979).

    None with one reader or one target, or where neither targets nor readers differ: there is nothing to agree on.
    """
    targets, readers = ratings.shape
    if min(targets, readers) < 2:
        return None
    mean = ratings.mean()
    by_target, by_reader = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    between_targets = readers * float(((by_target - mean) ** 2).sum()) / (targets - 1)
    between_readers = targets * float(((by_reader - mean) ** 2).sum()) / (readers - 1)
    rest = float(((ratings - by_target - by_reader + mean) ** 2).sum()) / ((targets - 1) * (readers - 1))
    whole = between_targets + (readers - 1) * rest + readers * (between_readers - rest) / targets
    return (between_targets - rest) / whole if whole > 1e-12 else None  # ratings are whole numbers: rounding


def weighted_kappa(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    """Cohen's kappa with quadratic weights: 1 − the squared differences seen ÷ those that chance would give.

    None where chance gives none: every score was the same, or there was none.
    """
    if not first.size:
        return None
    by_chance = float(((first[:, None] - second[None, :]) ** 2).mean())
    return 1.0 - float(((first - second) ** 2).mean()) / by_chance if by_chance > 0 else None


Checked = TypeVar("Checked", bound=StrictModel)


def _parse(shape: type[Checked], file: Path, what: str, hint: str) -> Checked:
    """A JSON file in the shape that it must have, or one sentence."""
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= LARGEST_FILE_BYTES else b""
    except OSError as error:
        raise InputError(f"{file.name} cannot be read: {error.strerror}; nothing was counted.", hint=hint) from error
    if size > LARGEST_FILE_BYTES:
        raise InputError(f"{file.name} is too large to be {what}; nothing was counted.", hint=hint)
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in found["loc"])
        raise InputError(
            f"{file.name} is not {what}: {f'{where}: ' if where else ''}{found['msg']}; nothing was counted.", hint=hint
        ) from error


def _answers(file: Path, key: _Key) -> _Answers:
    """One reader's answers: to this study, each panel once."""
    hint = "Ask the reader to save the answers again; they are still in the browser that they were given in."
    own = _parse(_Answers, file, "a file of answers", hint)
    if (own.study, own.seed) != (key.study, key.seed):
        raise InputError(
            f"{file.name} answers study {own.study}, and the key is of study {key.study}; nothing was counted.",
            hint="Give the key of the page that this reader scored.",
        )
    times = Counter(answer.trial for answer in own.answers)
    twice, missing, foreign = (
        sum(count > 1 for count in times.values()),
        len(key.trials.keys() - times.keys()),
        len(times.keys() - key.trials.keys()),
    )
    if twice or missing or foreign:
        raise InputError(
            f"{file.name} does not answer each of the {len(key.trials)} panels once: {missing} missing, {twice} twice, "
            f"{foreign} of no panel of this study; nothing was counted.",
            hint=hint,
        )
    return own


def _table(key: _Key, answered: Sequence[_Answers]) -> _Table:
    """The answers in order: readers as they come, views and methods by name, the truth last."""
    counted = {((one.case, one.view), one.method): token for token, one in key.trials.items() if not one.is_repeat}
    views = sorted({view for view, _ in counted})
    methods = sorted({method for _, method in counted}, key=lambda name: (name == REFERENCE, name))
    again = [(((one.case, one.view), one.method), token) for token, one in key.trials.items() if one.is_repeat]
    is_whole = len(counted) == len(views) * len(methods) and len(counted) + len(again) == len(key.trials)
    if not again or not is_whole or any(place not in counted for place, _ in again):
        raise InputError("The key does not hold each method once in each view, and repeats; nothing was counted.")
    cases = sorted({case for case, _ in views})
    by_trial = [{answer.trial: answer.scores for answer in own.answers} for own in answered]
    panels = [[[own[counted[view, method]] for method in methods] for view in views] for own in by_trial]
    repeats = [[(own[counted[place]], own[token]) for place, token in again] for own in by_trial]
    return _Table(
        methods=methods,
        cases=np.array([cases.index(case) for case, _ in views]),
        panels=np.array(panels, dtype=np.float64),
        repeats=np.array(repeats, dtype=np.int64),
    )


def _draws(table: _Table, rng: np.random.Generator) -> _Draws:
    """Readers and cases drawn with replacement, each for itself: both are samples of more (Owen 2007).

    All views of a case are drawn together: they are of one subject.
    """
    readers, cases = len(table.panels), int(table.cases.max()) + 1
    per_reader = rng.multinomial(readers, np.full(readers, 1 / readers), size=RESAMPLES)
    per_case = rng.multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES)
    return _Draws(readers=per_reader.astype(np.float64), views=per_case[:, table.cases].astype(np.float64))


def _interval(values: ScoreArray, draws: _Draws) -> Interval | None:
    """The interval of the mean of (reader, view); None where every draw is the same one reader and one case."""
    if np.ptp(draws.readers) == 0 and np.ptp(draws.views) == 0:
        return None
    sums = np.einsum("br,rv,bv->b", draws.readers, values, draws.views, optimize=True)
    means = sums / (draws.readers.sum(axis=1) * draws.views.sum(axis=1))
    low, high = np.percentile(means, INTERVAL_PERCENTILES)
    return Interval(low=float(low), high=float(high))


def _method_score(table: _Table, draws: _Draws, method: int, question: int) -> MethodScore:
    values = table.panels[:, :, method, question]
    name = table.methods[method]
    against = None
    if REFERENCE in table.methods and name != REFERENCE:
        # Within each reader and view, so that a severe reader or a poor scan cancels out.
        against = values - table.panels[:, :, table.methods.index(REFERENCE), question]
    return MethodScore(
        method=name,
        question=QUESTIONS[question],
        mean=float(values.mean()),
        interval=_interval(values, draws),
        sd=float(values.std(ddof=1)) if values.size > 1 else 0.0,
        to_reference=None if against is None else float(against.mean()),
        to_reference_interval=None if against is None else _interval(against, draws),
    )


def _agreement(table: _Table, question: int) -> Agreement:
    ratings = table.panels[:, :, :, question]
    first, second = table.repeats[:, :, 0, question].ravel(), table.repeats[:, :, 1, question].ravel()
    return Agreement(
        question=QUESTIONS[question],
        inter_reader_icc=intraclass_correlation(ratings.reshape(len(ratings), -1).T),
        intra_reader_difference=float(np.abs(first - second).mean()),
        intra_reader_kappa=weighted_kappa(first, second),
    )


def _reader_row(own: _Answers, table: _Table, place: int) -> ReaderRow:
    pairs = table.repeats[place]
    return ReaderRow(
        reader=own.reader,
        mean=float(table.panels[place].mean()),
        repeat_difference=float(np.abs(pairs[:, 0] - pairs[:, 1]).mean()),
        median_seconds=float(np.median([answer.seconds for answer in own.answers])),
    )


def _mean(row: MethodScore) -> str:
    return f"{row.mean:.2f}{_range(row.interval)}"


def _difference(row: MethodScore) -> str:
    return f"{row.to_reference or 0.0:+.2f}{_range(row.to_reference_interval)}"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"


def _or_none(value: float | None) -> str:
    return "n.a." if value is None else f"{value:.2f}"
