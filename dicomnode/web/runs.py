"""The pages of the training runs: the list, one run with its curves, and the page of an evaluation.

Curves and figures are numbers and are shown to everybody who comes in. The page of an evaluation holds pictures of the
studies that the model was judged on: it is shown behind the token, with a policy by which the browser runs nothing in
it and loads nothing.
"""

from __future__ import annotations

from typing import Final

from dicomnode.errors import InputError
from dicomnode.web import charts
from dicomnode.web.exchange import Answer
from dicomnode.web.pages import Visit
from dicomnode.web.run_files import Curve, ReaderStudy, Report, Run, RunFiles

SHOWN_MEASURES: Final = ("gain", "psnr", "ssim", "haarpsi")  # of an evaluation; the page of the evaluation has all
_REPORT_POLICY: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def runs(visit: Visit) -> Answer:
    """Show the list of the runs."""
    return visit.show("runs.html", runs=[(run, _spark(run)) for run in _files(visit).runs()])


def one_run(visit: Visit, name: str | int) -> Answer:
    """Show one run, with its curves."""
    wanted = _decoded(name)
    run = next((one for one in _files(visit).runs() if one.name == wanted), None)
    if run is None:
        raise InputError("There is no such run.")
    return visit.show(
        "run.html",
        run=run,
        path_of=_path,
        estimates=[(report, _estimates(report)) for report in run.reports],
        studies=[(folder, study, _scores(study)) for folder, study in run.readers],
        measures=SHOWN_MEASURES,
    )


def report(visit: Visit, name: str | int, folder: str | int = "") -> Answer:
    """Return the page of an evaluation, as the trainer wrote it."""
    if not visit.person.may_see_images:
        raise InputError("A report holds images, and this page asks for no token.", hint="Set web.token_file.")
    content = _files(visit).page_of(_decoded(name), _decoded(folder))
    return Answer(body=content, policy=_REPORT_POLICY)


def _files(visit: Visit) -> RunFiles:
    files = visit.node.runs
    if files is None:
        raise InputError("No folder of runs is configured.", hint="The key web.runs names one.")
    return files


def _decoded(name: str | int) -> str:
    """Decode a part of a path, whose bytes WSGI hands on as Latin-1 (PEP 3333)."""
    return str(name).encode("latin-1", "replace").decode("utf-8", "replace")


def _path(curve: Curve) -> str:
    return charts.line(curve.values)


def _spark(run: Run) -> str:
    """Draw the loss of the last stage."""
    curves = [curve for stage in run.stages[-1:] for curve in stage.curves[:1]]
    return _path(curves[0]) if curves else ""


def _estimates(report: Report) -> list[tuple[str, str, list[str]]]:
    """List group, method, and the shown measures with their intervals."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in report.evaluation.estimates:
        one = row.estimate
        if row.measure in SHOWN_MEASURES and one.mean is not None:
            interval = "" if one.low is None or one.high is None else f" [{one.low:.3g}, {one.high:.3g}]"
            rows.setdefault((row.group, row.method), {})[row.measure] = f"{one.mean:.4g}{interval}"
    return [
        (group, method, [found.get(measure, "") for measure in SHOWN_MEASURES])
        for (group, method), found in rows.items()
    ]


def _scores(study: ReaderStudy) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the questions, and for each method the mean opinion scores."""
    questions = list(dict.fromkeys(row.question for row in study.methods))
    methods: dict[str, dict[str, str]] = {}
    for row in study.methods:
        interval = f" [{row.interval.low:.2f}, {row.interval.high:.2f}]" if row.interval else ""
        against = "" if row.to_reference is None else f"; {row.to_reference:+.2f} to the truth"
        methods.setdefault(row.method, {})[row.question] = f"{row.mean:.2f}{interval}{against}"
    return questions, [(method, [found.get(one, "") for one in questions]) for method, found in methods.items()]
