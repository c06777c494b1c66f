"""A folder of training runs as the trainer and its commands leave them: one trained, judged and read, in seconds."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch

from dicomnode.cli.main import main
from tests.support.recipes import FIDELITY, SHARP, nifti_sources, plan_of, thin_recipe
from tests.trainer.judging.test_report import evaluation
from tests.trainer.readers.test_scores import answers, saved, study
from trainer.data.sources import Split
from trainer.judging.report import write_report
from trainer.readers.study import REFERENCE
from trainer.training import plan as plans
from trainer.training.loop import train

RUN = "tiny"
STEPS = (100, 2)
OPINION = {"cubic-dc": 2, "net": 4, REFERENCE: 5}


def fill_runs(folder: Path, studies: Path, steps: tuple[int, int] = STEPS) -> None:
    """One run of two stages, with an evaluation and a reader study of two readers."""
    run = folder / RUN
    studies.mkdir(parents=True)
    sources = nifti_sources(studies, [Split.TRAIN, Split.VALIDATION])
    plans.write(plan_of(thin_recipe(FIDELITY, SHARP), sources, steps), run)
    assert train(run, report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))
    write_report(run / "report", evaluation("<img src=x>"), [])
    (run / "readers").mkdir()
    (run / "readers" / "readers.json").write_text(_scores(studies))


def _scores(folder: Path) -> str:
    """The output of `dicomnode evaluate --reader-scores … --json`."""
    key = study(folder, methods=tuple(OPINION))
    files = []
    for reader, harsh in (("R1", 0), ("R2", 1)):

        def opinion(trial: dict[str, str], harsh: int = harsh) -> tuple[int, int, int]:
            score = OPINION[trial["method"]] - harsh
            return score, score, score

        files.append(saved(folder, answers(key, reader, opinion)))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(["evaluate", "--reader-scores", *map(str, files), str(key), "--json"])
    return said.getvalue()
