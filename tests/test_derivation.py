"""What decides a derivation: pinned as one text, read back from every version's text, and the UIDs that follow."""

from __future__ import annotations

import json
import uuid
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from dicomnode.derivation import DerivationParameters, RuleLimits, utc_offset_min
from dicomnode.derive.facts import DerivationPlan, Facts, facts_of
from dicomnode.errors import InputError
from dicomnode.generators.base import thin_volume
from dicomnode.ids import AeTitle
from dicomnode.imaging.frame import read_frames
from dicomnode.imaging.profile import thin_grid
from dicomnode.imaging.stack import load_volume
from tests.support.mr_series import mr_datasets, write_series
from tests.support.zone import machine_zone

# As each version wrote it into the ledger, oldest first.
WITHOUT_CLOCK = (
    '{"allow_lossy":false,"derived":"process","max_gap_fraction":0.5,"min_ratio":1.5,"refuse_terms":["X*"],'
    '"target_mm":1.3}'
)
WITH_CLOCK = WITHOUT_CLOCK.removesuffix("}") + ',"utc_offset_min":60}'
WITH_SHARPNESS = WITHOUT_CLOCK.replace('"target_mm"', '"sharpness":0.4,"target_mm"').removesuffix("}") + (
    ',"utc_offset_min":60}'
)
COLUMNS = {"rule": "every series", "model": "thin", "model_digest": "0123456789abcdef" * 4, "ratio": 3}
PARAMETERS = DerivationParameters(
    rule="every series",
    model="thin",
    model_digest="0123456789abcdef" * 4,
    ratio=3,
    limits=RuleLimits(target_mm=1.3, refuse_terms=("X*",)),
    utc_offset_min=60,
)


@pytest.mark.parametrize("text", [WITHOUT_CLOCK, WITH_CLOCK, WITH_SHARPNESS])
def test_the_text_of_every_version_is_read_and_is_written_again_as_it_was(text: str) -> None:
    found = DerivationParameters.from_columns({**COLUMNS, "parameters": text})
    expected = {
        WITHOUT_CLOCK: replace(PARAMETERS, utc_offset_min=None),
        WITH_CLOCK: PARAMETERS,
        WITH_SHARPNESS: replace(PARAMETERS, sharpness=0.4),
    }
    assert found == expected[text]
    assert found.as_columns() == {**COLUMNS, "parameters": text}


def test_the_order_and_spacing_of_the_text_do_not_matter() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(WITH_CLOCK).items())), indent=2)
    assert DerivationParameters.from_columns({**COLUMNS, "parameters": shuffled}) == PARAMETERS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            WITH_CLOCK.replace("{", '{"gain":0.5,"dose":1,'),
            "The job was planned with dose, gain, which this version of the node does not know.",
        ),
        ("{}", "cannot be read: they lack allow_lossy, derived, max_gap_fraction, min_ratio, refuse_terms, target_mm."),
        ("[]", "The parameters with which the job was planned cannot be read: they are no JSON object."),
        ('{"target_mm":', "The parameters with which the job was planned cannot be read: they are no JSON."),
    ],
)
def test_a_text_that_says_more_or_less_than_this_version_knows_is_refused(text: str, sentence: str) -> None:
    """Another value in its place would be another series under the UIDs of the one that was planned."""
    with pytest.raises(InputError) as caught:
        DerivationParameters.from_columns({**COLUMNS, "parameters": text})
    assert caught.value.sentence.endswith(sentence)
    assert "series retry ID" in caught.value.hint


def test_only_the_clock_may_differ_between_two_plans_of_the_same_result() -> None:
    assert PARAMETERS.makes_the_same(replace(PARAMETERS, utc_offset_min=None))
    for change in (
        {"rule": "other"}, {"model": "other"}, {"model_digest": "other"}, {"ratio": 4},
        {"limits": replace(PARAMETERS.limits, min_ratio=2.0)},
    ):  # fmt: skip
        assert not PARAMETERS.makes_the_same(replace(PARAMETERS, **change))


def test_a_parameter_that_came_after_the_first_version_is_absent_until_it_is_pinned() -> None:
    """Else every job that was planned before it would have another text, and so other UIDs."""
    first = {*COLUMNS, "limits"}
    later = [field for field in fields(DerivationParameters) if field.name not in first]
    assert [field.name for field in later if field.default is not None] == []
    assert replace(PARAMETERS, **{field.name: None for field in later}).text() == WITHOUT_CLOCK  # type: ignore[arg-type]  # keys by name


def test_a_moment_is_written_on_the_clock_that_was_pinned_else_on_this_machines() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=UTC)
    with machine_zone("IST-5:30"):
        assert utc_offset_min(moment) == 330
        assert PARAMETERS.on_pinned_clock(moment).isoformat() == "2026-07-01T13:00:00+01:00"
        unpinned = replace(PARAMETERS, utc_offset_min=None)
        assert unpinned.on_pinned_clock(moment).isoformat() == "2026-07-01T17:30:00+05:30"


# UIDs


def _facts(folder: Path, parameters: DerivationParameters) -> Facts:
    """Of a source and thin voxels that are the same on every machine."""
    datasets = mr_datasets(slices=6, size=16, series_uid="1.2.3")
    for number, dataset in enumerate(datasets):
        dataset.SOPInstanceUID, dataset.StudyInstanceUID = f"1.2.3.{number}", "1.2"
        dataset.FrameOfReferenceUID = "1.2.4"
        dataset.PixelData = np.full((16, 16), 100 + number, "<u2").tobytes()
    paths = write_series(folder, datasets)
    stack = load_volume(read_frames(paths), digests={path: f"{number:064x}" for number, path in enumerate(paths)})
    thin = thin_volume(np.repeat(stack.volume.voxels, 3, axis=0), stack.volume, thin_grid(stack.volume, 3))
    plan = DerivationPlan(
        parameters=parameters,
        model_kind="thin",
        namespace=uuid.UUID("b4a8a5a6-52f1-4a1c-8f5d-0a4f0f2f7d01"),
        ae_title=AeTitle("NODE"),
        derivation_number=2,
        created_at=parameters.on_pinned_clock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    )
    return facts_of(stack, thin, plan, consistency=True)


@pytest.mark.parametrize(
    ("text", "seed", "series_uid"),
    [
        (
            WITHOUT_CLOCK,
            "05283550324f78ebb678d9b571ecf2fcdba46c9fc7b6bb4458ff923e7c37308a",
            "2.25.238735164526480965561925734013348697645",
        ),
        (
            WITH_CLOCK,
            "1e05590f98a07cfb58b86e18132ce63b47a0beee757cf54c3c3564b8ca5767c0",
            "2.25.190893509717575401039282533665184333681",
        ),
    ],
)
def test_a_job_that_an_earlier_version_planned_keeps_its_uids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, seed: str, series_uid: str
) -> None:
    """The literals were computed by the version that kept the parameters as a text, as far as the parameters go."""
    monkeypatch.setattr("dicomnode.derive.facts.DERIVE_VERSION", 2)
    monkeypatch.setattr("dicomnode.derive.facts.__version__", "0.1")
    monkeypatch.setattr("pydicom.__version__", "3.0.2")
    with machine_zone("UTC0"):
        facts = _facts(tmp_path, DerivationParameters.from_columns({**COLUMNS, "parameters": text}))
    assert (facts.seed, facts.series_uid) == (seed, series_uid)
