"""Compares the patient of a study that is about to be sent with the patient under whom the peer has that study.

In: a peer and a file of the archive. Out: the names of the attributes that differ. The values stay here: none is
logged, returned or stored. If a peer offers no C-FIND (no QIDO-RS at a url), does not answer, or does not have the
study, nothing differs.
"""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from pydicom.datadict import dictionary_description

from dicomnode import log
from dicomnode.dimse.outcome import RequestOutcome, RequestReason
from dicomnode.imaging.dicom_file import read_values
from dicomnode.push.answers import NotOffered
from dicomnode.push.witness import Witness
from dicomnode.settings.peers import PeerSettings

LOGGER = logging.getLogger(__name__)

PATIENT_KEYWORDS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
REST_S = 600.0  # so long a peer is not asked again that offers no search, or that did not answer one in time

_STUDY_UID = "StudyInstanceUID"
_MARKS = re.compile("[^a-z0-9]")
_NO_DIGITS = re.compile("[^0-9]")


class PatientQuery:
    """Asks one peer. One thread uses it; only ``abort`` may come from another."""

    def __init__(self, peer: PeerSettings, witness: Witness) -> None:
        self._peer = peer
        self._witness = witness
        self._rests_until_s = 0.0

    def abort(self) -> None:
        """End the query that is open, from any thread."""
        self._witness.abort()

    def differences(self, path: Path) -> tuple[str, ...]:
        """Name the attributes by which the peer has the study of this file under another patient."""
        if time.monotonic() < self._rests_until_s:
            return ()
        ours = read_values(path, [_STUDY_UID, *PATIENT_KEYWORDS])
        if not ours or not ours[_STUDY_UID]:
            self._log("a header could not be read, or names no study")
            return ()
        answer = self._witness.patients(self._peer, ours[_STUDY_UID], PATIENT_KEYWORDS)
        if isinstance(answer, NotOffered):
            self._rest(answer.why)
            return ()
        if isinstance(answer, RequestOutcome):
            if answer.reason is RequestReason.NO_RESPONSE:
                self._rest(answer.sentence)
            else:
                self._log(answer.sentence)
            return ()
        found = [_differing(ours, theirs) for theirs in answer]
        return min(found, key=len, default=())  # a study that is there twice: under the same patient, if under any

    def _rest(self, why: str) -> None:
        """Do not ask the peer for a while: each query would end as this one did, or take as long."""
        self._rests_until_s = time.monotonic() + REST_S
        self._log(why, wait_s=REST_S)

    def _log(self, why: str, *, wait_s: float | None = None) -> None:
        log.event(LOGGER, "identity_not_compared", peer=self._peer.name, detail=why, wait_s=wait_s)


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, ...]:
    """Name the attributes that both state and that differ."""
    return tuple(
        dictionary_description(keyword)
        for keyword in PATIENT_KEYWORDS
        if (mine := plain(keyword, ours[keyword])) and (other := plain(keyword, theirs[keyword])) and mine != other
    )


def plain(keyword: str, text: str) -> str:
    """Return a value in a plain form for comparison, without what PACSs change and what means nothing.

    Of a name, the letters and digits of ASCII in the first component group remain: some PACSs answer in another
    character set than they say, or with question marks, and a study must not be held for that.

    >>> plain("PatientName", "DOE^ Jane-Ann^^=…"), plain("PatientName", "Möwe"), plain("PatientName", "MÃ¶we")
    ('doejaneann', 'mwe', 'mwe')
    >>> plain("PatientBirthDate", "1970.01.02"), plain("PatientID", "P-77 ")
    ('19700102', 'P-77')
    """
    match keyword:
        case "PatientName":
            return _MARKS.sub("", unicodedata.normalize("NFC", text.partition("=")[0]).lower())
        case "PatientBirthDate":
            return _NO_DIGITS.sub("", text)
        case _:
            return text.strip(" \0")
