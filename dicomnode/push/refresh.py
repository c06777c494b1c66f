"""A series that a peer has under another patient is derived anew under that one (docs/decisions/0013).

In: a held delivery, the peer that it goes to, and a person's word. Out: the patient as the peer states it for this very
study, in a file that a job pins; the job. Nothing is guessed: without an answer, or with more than one, the command is
refused. The values stay in that file and on the terminal of the person who asks to see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import dictionary_description
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode import wire
from dicomnode.archive.store import Archive
from dicomnode.derive import patient
from dicomnode.dimse.outcome import RequestOutcome
from dicomnode.errors import InputError, PeerError
from dicomnode.ids import DeliveryId, JobId, derived_uid, digest
from dicomnode.imaging.dicom_file import read_dataset, read_values
from dicomnode.imaging.texts import texts
from dicomnode.ledger.refreshes import Refreshable
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import QuarantinedFile, QuarantineReason
from dicomnode.push.answers import NotOffered
from dicomnode.push.identity import plain
from dicomnode.push.witness import Witness
from dicomnode.seams import SYSTEM_CLOCK, Clock, checkpoint
from dicomnode.settings.peers import PeerSettings

_STUDY_UID, _CHARACTER_SET = "StudyInstanceUID", "SpecificCharacterSet"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Patients:
    """The patient of a study here, at the peer, and as the derived series is to have it: attributes by keyword."""

    study_uid: str
    ours: Mapping[str, str]
    theirs: Mapping[str, str]
    wanted: Mapping[str, str]

    @property
    def differing(self) -> tuple[str, ...]:
        """The names of the attributes that the refresh will change."""
        return tuple(
            dictionary_description(keyword)
            for keyword in patient.KEYWORDS
            if plain(keyword, self.ours[keyword]) != plain(keyword, self.wanted[keyword])
        )


def compare(archive: Archive, delivery: Refreshable, peer: PeerSettings, witness: Witness) -> Patients:
    """Ask the peer for the patient of a delivery's study.

    Raises PeerError where there is no answer, InputError where the answer is of no use.

    An attribute that the peer does not state stays as it is here where the Patient ID is the same, and is empty under
    another one.
    """
    path = archive.path(delivery.file)
    ours = read_values(path, [_STUDY_UID, *patient.KEYWORDS])
    if not ours or not ours[_STUDY_UID]:
        raise InputError("The header of the delivery's first file cannot be read; nothing was changed.")
    theirs = _only_one(peer, witness.patients(peer, ours[_STUDY_UID], patient.KEYWORDS))
    is_same = plain("PatientID", ours["PatientID"]) == plain("PatientID", theirs["PatientID"])
    found = Patients(
        study_uid=ours[_STUDY_UID],
        ours=ours,
        theirs=theirs,
        wanted={keyword: _chosen(keyword, ours, theirs, is_same=is_same) for keyword in patient.KEYWORDS},
    )
    if not found.differing:
        raise InputError(
            f"{peer.name} has the study under the same patient; nothing was changed.",
            hint="`dicomnode deliveries release` without --refresh sends the delivery.",
        )
    patient.refuse_unwritable(found.wanted, _character_sets(path))
    return found


def refresh(
    ledger: Ledger,
    archive: Archive,
    delivery: DeliveryId,
    found: Patients,
    *,
    by: str,
    note: str,
    clock: Clock = SYSTEM_CLOCK,
) -> JobId:
    """Have the series derived anew under the patient of the peer; ``by``: who decided that.

    Raises InputError, and nothing is changed, where the delivery does not allow it any more.
    """
    wanted = ledger.refreshes.wanted(delivery)
    content = patient.encode(found.wanted, found.study_uid)
    sha256 = digest(content)
    name = archive.quarantine.put(
        content,
        sop_class_uid=wire.STUDY_ROOT_FIND,
        sop_instance_uid=derived_uid(ledger.node_uuid, f"patient:{sha256}"),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        peer=wanted.peer,
        received_at=clock.now(),
    )
    checkpoint("refresh.written")
    answer = QuarantinedFile(
        file=name, reason=QuarantineReason.PATIENT, sha256=sha256, peer=wanted.peer, instance=None, kept_sha256=None,
        series=wanted.series,
    )  # fmt: skip
    try:
        return ledger.refreshes.begin(delivery, answer, by, note)
    except InputError:
        archive.quarantine.remove([name])
        raise


def _only_one(peer: PeerSettings, answer: list[dict[str, str]] | NotOffered | RequestOutcome) -> dict[str, str]:
    if isinstance(answer, NotOffered | RequestOutcome):
        why = answer.why if isinstance(answer, NotOffered) else answer.sentence
        raise PeerError(
            f"{peer.name} did not say whose the study is: {why}; nothing was changed.",
            hint="Have the peer answer C-FIND to this node, or the corrected series sent to the node under new UIDs.",
        )
    stated = [dict(pairs) for pairs in {tuple(one.items()) for one in answer}]
    if not stated:
        raise InputError(f"{peer.name} does not have the study; nothing was changed.")
    if len(stated) > 1:
        raise InputError(
            f"{peer.name} has the study under {len(stated)} patients; nothing was changed.",
            hint="Have it corrected at the peer.",
        )
    if not stated[0]["PatientID"].strip():
        raise InputError(f"{peer.name} has the study without a Patient ID; nothing was changed.")
    return stated[0]


def _chosen(keyword: str, ours: Mapping[str, str], theirs: Mapping[str, str], *, is_same: bool) -> str:
    """Return the peer's value; ours where both say the same, since some peers answer in a poorer character set."""
    stated = theirs[keyword].strip(" \0")
    says_the_same = plain(keyword, stated) == plain(keyword, ours[keyword])
    return ours[keyword] if says_the_same or (is_same and not stated) else stated


def _character_sets(path: Path) -> tuple[str, ...]:
    """Return the values of Specific Character Set of a file."""
    return texts(read_dataset(path, pixels=False), _CHARACTER_SET)
