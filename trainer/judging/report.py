"""An evaluation as JSON, as lines for a terminal, and as one HTML file that needs nothing beside it.

The page's text is our own words and the inventory's labels; the template escapes all of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

import jinja2

from dicomnode import __version__, durable
from dicomnode.visible import json_text
from trainer.judging.evaluate import Evaluation
from trainer.judging.figures import Figure
from trainer.judging.tables import (
    aligned,
    case_table,
    comparison_table,
    dial_table,
    group_tables,
    method_table,
    paper_table,
    probe_table,
    source_table,
    subject_tables,
)

JSON_FILE, HTML_FILE = "report.json", "report.html"
TITLE = "Thick to thin: how near methods come to the truth"


def to_json(evaluation: Evaluation) -> str:
    """One document; what is no number (an error of zero has an infinite PSNR) is null."""
    return json_text(_plain(evaluation), indent=1) + "\n"


def lines(evaluation: Evaluation) -> Iterator[str]:
    """The report's lines for a terminal: subjects, all together, pairs, probes, and what was not computed."""
    tables = [*subject_tables(evaluation), *group_tables(evaluation), comparison_table(evaluation)]
    tables += [paper_table(evaluation), probe_table(evaluation), dial_table(evaluation)]
    for table in tables:
        if table.rows:
            yield table.caption
            yield from (f"  {line}" for line in aligned(table))
            yield ""
    yield from evaluation.notes


def write_report(folder: Path, evaluation: Evaluation, figures: Sequence[Figure]) -> None:
    """Both files, whole and together or not at all, as a new folder. Raises OSError as it comes."""
    with durable.growing_folder(folder) as growing:
        durable.write_file(growing / JSON_FILE, [to_json(evaluation).encode()])
        durable.write_file(growing / HTML_FILE, [to_html(evaluation, figures).encode()])


def to_html(evaluation: Evaluation, figures: Sequence[Figure]) -> str:
    """The page; it loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.judging", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page: str = environment.get_template("report.html").render(
        title=TITLE,
        version=__version__,
        seed=evaluation.seed,
        sources=source_table(evaluation),
        methods=method_table(evaluation),
        figures=figures,
        groups=group_tables(evaluation),
        comparisons=comparison_table(evaluation),
        subjects=subject_tables(evaluation),
        paper=paper_table(evaluation),
        probes=probe_table(evaluation),
        dial=dial_table(evaluation),
        cases=case_table(evaluation),
        notes=evaluation.notes,
    )
    return page


def _plain(value: object) -> object:
    """The value in the types of JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    assert value is None or isinstance(value, str | int), type(value).__name__
    return value
