"""Seen in the field: minimum intensity projections of 16 mm every 4 mm, in the standard's own words, were derived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.imaging.frame import Frame
from dicomnode.imaging.headers import header_of
from dicomnode.imaging.judge import judge
from dicomnode.imaging.verdict import Limits, Verdict, VerdictReason
from tests.support.derived import SMALL
from tests.support.phantom import Phantom

SOMEWHERE = Path("none.dcm")

# PS3.3 C.8.16.1.4 (Table C.8-130, common to CT and MR), C.8.13.3.1 (Enhanced MR, values 3 and 4), C.8.3.1.1.1.
OPERATIONS = (
    "DIVISION", "MASKED", "MAXIMUM", "MINIMUM", "MTT", "MULTIPLICATION", "RCBF", "RCBV", "RESAMPLED", "STD_DEVIATION",
    "SUBTRACTION", "T_TEST", "TTP", "Z_SCORE", "ENERGY_PROP_WT", "QUANTITY",
)  # fmt: skip
OF_MR = (
    "ADC", "DIFFUSION", "DIFFUSION_ANISO", "DIFFUSION_ATTNTD", "DIFFUSION_ISO", "FAT_FRACTION", "FIELD_MAP",
    "LOCALIZER", "MAX_IP", "METABOLITE_MAP", "MIN_IP", "M_MODE", "NEI", "PERFUSION", "PERFUSION_ASL", "R2_MAP",
    "R2_STAR_MAP", "R_COEFFICIENT", "RHO", "SCM", "SNR_MAP", "T1_MAP", "T2_MAP", "T2_STAR_MAP", "TCS", "TEMPERATURE",
    "VELOCITY", "WATER_FRACTION",
)  # fmt: skip
OF_CLASSIC_MR = (
    "DENSITY MAP", "DIFFUSION MAP", "MODULUS SUBTRACT", "MPR", "PHASE MAP", "PHASE SUBTRACT", "PROJECTION IMAGE",
    "T1 MAP", "T2 MAP", "VELOCITY MAP",
)  # fmt: skip
ANATOMY = (
    "ADDITION", "MEAN", "MEDIAN", "IMAGE ADDITION", "FILTERED", "FAT", "WATER", "IN_PHASE", "OUT_OF_PHASE",
    "PROTON_DENSITY", "STIR", "T1", "T2", "T2_STAR", "TOF", "FLUID_ATTENUATED", "OTHER", "NONE", "MULTIECHO",
)  # fmt: skip


def judged(image_type: list[str], limits: Limits | None = None, phantom: Phantom = SMALL) -> Verdict:
    datasets = replace(phantom, changes={"ImageType": image_type}).datasets()
    return judge([Frame(header=header_of(dataset, SOMEWHERE)) for dataset in datasets], limits or Limits())


@pytest.mark.parametrize("term", [*OPERATIONS, *OF_MR, *OF_CLASSIC_MR])
def test_the_standards_words_for_what_is_no_anatomical_stack_are_refused(term: str) -> None:
    verdict = judged(["DERIVED", "PRIMARY", "M", term])
    assert verdict.reason is VerdictReason.TERM
    assert verdict.sentence == f"This is a {term} image, not an anatomical stack."


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("spelling", ["MIN_IP", "MIN IP", "MINIP", "min_ip", "MIN__IP", "MIN_IP_TRA"])
def test_underscore_blank_and_case_do_not_change_a_term(spelling: str) -> None:
    assert judged(["ORIGINAL", "PRIMARY", spelling]).reason is VerdictReason.TERM


@pytest.mark.parametrize("term", ANATOMY)
@pytest.mark.parametrize("first", ["ORIGINAL", "DERIVED"])
def test_sums_and_flavours_of_anatomy_are_processed(first: str, term: str) -> None:
    assert judged([first, "PRIMARY", "M", term]).process


def test_a_mean_over_slabs_that_overlap_is_a_projection() -> None:
    slabs = replace(SMALL, thickness_mm=8.0)
    assert judged(["DERIVED", "SECONDARY", "M", "MEAN"], phantom=slabs).sentence.startswith("This is a MEAN image")
    assert judged(["DERIVED", "SECONDARY", "M", "ADDITION"], phantom=slabs).reason is VerdictReason.TERM
    assert judged(["ORIGINAL", "PRIMARY", "M", "ADDITION"], phantom=slabs).process, "acquired so"
    assert judged(["DERIVED", "SECONDARY", "M", "OTHER"], phantom=slabs).process, "no mean"


def test_a_reformat_is_refused_and_an_original_that_says_so_is_not() -> None:
    assert judged(["ORIGINAL", "PRIMARY", "MPR"]).process
    assert judged(["DERIVED", "PRIMARY", "MPR"]).reason is VerdictReason.TERM
    assert judged(["DERIVED", "SECONDARY", "MPR_TRA"]).reason is VerdictReason.TERM
    assert judged(["ORIGINAL", "SECONDARY", "MIP_TRA"]).reason is VerdictReason.TERM, "a projection calls itself so"


def test_a_term_of_a_rule_is_compared_word_by_word() -> None:
    fat = Limits(refuse_terms=("fat *",))
    assert judged(["ORIGINAL", "PRIMARY", "FAT_ONLY"], fat).reason is VerdictReason.TERM
    assert judged(["ORIGINAL", "PRIMARY", "FATSAT"], fat).process
    assert (
        judged(["ORIGINAL", "PRIMARY", "FAT_ONLY"], Limits(refuse_terms=("fat_[a-o]*",))).reason is VerdictReason.TERM
    )
