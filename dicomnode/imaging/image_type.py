"""Read Image Type: its values that mark a picture as no slice of an anatomical stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

_BETWEEN_WORDS = re.compile(r"[\s_]+")

# Values 3 and later of Image Type that do not belong to an anatomical stack, without blanks and underscores ("MIN_IP",
# "MIN IP" and "MINIP" are one); `*` is a wildcard. FAT, WATER, IN_PHASE and OUT_PHASE of Dixon, and FILTERED, belong to
# anatomical images and are not listed.
REFUSED_TERMS = (
    # Results of operations on pixels: C.8.3.1.1.1, C.8.16.1.4, C.8.13.3.1, CT's common with MR.
    "DIVISION", "MASKED", "MAXIMUM", "MINIMUM", "MULTIPLICATION", "RESAMPLED", "STDDEV*", "SUB", "SUBTRACT*",
    "MODULUSSUBTRACT*", "PHASESUBTRACT*", "TTEST", "ZSCORE", "ENERGYPROPWT", "QUANTITY",
    # Projections, and what is not a slice at all.
    "LOCALIZER", "MIP*", "MAXIP*", "MINIP*", "MNIP*", "PROJECTION*", "MMODE", "SPECTROSCOPY", "CSAREPORT", "SCREENSAVE",
    # Maps: diffusion, perfusion, relaxation, metabolites, motion. "*MAP" holds T1_MAP, FIELD_MAP, DENSITY MAP …
    "*MAP", "DIFFUSION*", "ADC", "EADC", "FA", "TRACE*", "TENSOR", "ATTNTD", "PERFUSION*", "ASL", "CBF", "RCBF",
    "RELCBF", "CBV", "RCBV", "RELCBV", "MTT", "TTP", "NEI", "RCOEFFICIENT", "RHO", "SCM", "TCS", "TEMPERATURE",
    "VELOCITY", "FATFRACTION", "WATERFRACTION",
    # Pictures computed from a volume, as Enhanced MR names the technique.
    "CURVEDMPR", "VOLUMERENDER", "SURFACERENDER",
    # Parts of the complex signal.
    "P", "PHASE", "R", "I", "REAL", "IMAGINARY",
)  # fmt: skip
# GE writes MPR into the originals of a plain 2-D scan; what a scanner acquired is no reformat, whatever it says.
REFUSED_UNLESS_ORIGINAL = ("MPR*",)
# Means and sums over echoes, averages or coils (Dixon, MEDIC, MP2RAGE) are anatomy with the profile of their slices and
# are processed. A mean over a slab is a projection like any other: derived, and thicker than the slices lie apart.
SUMS = ("ADDITION", "IMAGEADDITION", "ADD", "SUM", "MEAN", "AVERAGE", "MEDIAN")
MOSAIC_TERM = "MOSAIC"


def refused_value(image_type: Sequence[str], of_rule: Sequence[str]) -> str | None:
    """Return the first value, of the third and later, by which a picture is refused. None: there is none.

    ``of_rule``: further terms of the rule; `*` is a wildcard in them, and case does not matter.
    """
    terms = REFUSED_TERMS if image_type[:1] == ("ORIGINAL",) else REFUSED_TERMS + REFUSED_UNLESS_ORIGINAL
    rule_terms = [_spaced(term.upper()) for term in of_rule]
    for value in image_type[2:]:
        if _is_one_of(_joined(value), terms) or _is_one_of(_spaced(value), rule_terms):
            return value
    return None


def sum_value(image_type: Sequence[str]) -> str | None:
    """Return the value by which a DERIVED picture is a mean or a sum of others. None: it is none."""
    if image_type[:1] != ("DERIVED",):
        return None
    return next((value for value in image_type[2:] if _is_one_of(_joined(value), SUMS)), None)


def is_mosaic(image_type: Sequence[str]) -> bool:
    """Are the slices of a series tiled in this one picture?"""
    return MOSAIC_TERM in image_type[2:]


def _is_one_of(value: str, terms: Sequence[str]) -> bool:
    return any(fnmatchcase(value, term) for term in terms)


def _joined(value: str) -> str:
    """Drop what writers put between the words of a term: a blank, an underscore or nothing.

    >>> _joined("STD_DEVIATION"), _joined("MIN IP")
    ('STDDEVIATION', 'MINIP')
    """
    return _BETWEEN_WORDS.sub("", value)


def _spaced(value: str) -> str:
    """Join a rule's terms with blanks around them: ``_joined`` would turn "FAT *" into "FAT*"."""
    return _BETWEEN_WORDS.sub(" ", value).strip()
