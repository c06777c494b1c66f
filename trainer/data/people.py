"""Digest the person of a series, as far as its headers tell: digests are compared, and no word names a patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from dicomnode.imaging.headers import InstanceHeader

PERSON = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate")  # age and weight change between visits


def person_of(header: InstanceHeader) -> str:
    """Digest of who it is, alike for all spellings of one name; who has neither name nor number counts by study."""
    who = [header.canonical(keyword) for keyword in PERSON]
    return _digest(who if any(who) else [header.study_uid])


def alike_of(header: InstanceHeader) -> str:
    """The same digest for people who may be one: capitals, and zeros before a number, are not looked at.

    "" for whom no name or number is known.
    """
    name, number, birth_date = (header.canonical(k) for k in ("PatientName", "PatientID", "PatientBirthDate"))
    who = [name.casefold(), number.casefold().lstrip("0"), birth_date]
    return _digest(["alike", *who]) if any(who[:2]) else ""


def look_alikes(people: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """A sentence for each group of subjects that may be one person, from (subject, ``person_of``, ``alike_of``)."""
    groups: dict[str, dict[str, str]] = {}
    for subject, person, alike in people:
        if alike:
            groups.setdefault(alike, {}).setdefault(person, subject)
    return tuple(
        f"{_listed(subjects)} may be one person: their names and numbers differ in capitals or leading zeros only, and "
        "their birth dates are the same. An inventory can say so."
        for group in groups.values()
        if len(subjects := list(dict.fromkeys(group.values()))) > 1
    )


def _listed(subjects: Sequence[str]) -> str:
    return f"{', '.join(subjects[:-1])} and {subjects[-1]}"


def _digest(who: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(who).encode()).hexdigest()
