"""Handle one C-STORE: the bytes of a data set in, the status for the peer out; store it before the acknowledgement.

An acknowledgement promises this order: temporary file → fdatasync → rename → folder flushed → ledger committed → 0000.
A failure status is given only where the object was not stored, because ``storescu`` and scanners like it stop a series
at the first one: an altered copy, another encoding and our own output coming back are answered 0000. For the first
two, the transaction that finds them makes the row in quarantine, with the series that they belong to; only then is the
file moved there, and only then is the peer answered. This module does not use pynetdicom.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath

from dicomnode import log
from dicomnode.archive.digests import digest_of_anything
from dicomnode.archive.store import Archive, FileState
from dicomnode.errors import LedgerError, NodeError
from dicomnode.ids import SeriesId, digest, is_harmless_uid, new_instance_id
from dicomnode.ledger.engine import LedgerBusyError
from dicomnode.ledger.store import Ledger
from dicomnode.ledger.values import KnownInstance, QuarantinedFile, QuarantineReason, StoredInstance, StoreOutcome
from dicomnode.receive.commit import GroupCommit, OutcomeUnknownError
from dicomnode.receive.header_walk import Flaw, HeaderUids, read_uids
from dicomnode.receive.space import Space
from dicomnode.seams import Clock, checkpoint
from dicomnode.wire import IMPLICIT, Answer

LOGGER = logging.getLogger(__name__)

QUARANTINE_HEAD_BYTES = 65536  # kept of an unreadable object: enough to see what it was


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedInstance:
    """The instance of one C-STORE request: the facts of the command, and the data set."""

    peer: str
    called_ae: str | None = None  # the AE title that the peer called; None: a file that comes from no association
    sop_class_uid: str  # as the command states it
    sop_instance_uid: str
    context_sop_class_uid: str  # of the presentation context that it came on
    transfer_syntax_uid: str
    dataset: memoryview
    is_pulled: bool = False  # true: it came to the AE title that we pull with


class Intake:
    """Checks instances and puts them into archive and ledger. Safe to use from many threads."""

    def __init__(self, *, archive: Archive, ledger: Ledger, space: Space, clock: Clock) -> None:
        self._archive = archive
        self._ledger = ledger
        self._space = space
        self._clock = clock
        self._commit = GroupCommit(ledger.intake)

    def store(self, offer: OfferedInstance, series: dict[str, SeriesId]) -> Answer:
        """Keep the object; return the status that answers the peer.

        ``series``: those of this association, by UID; a new one is added, so that it does not settle meanwhile.
        """
        try:
            return self._store(offer, series)
        except OSError as exc:
            return self._space.failed(exc)
        except LedgerBusyError as exc:
            return self._refused(exc, Answer.NO_RESOURCES)
        except NodeError as exc:
            return self._refused(exc, Answer.FAILED)

    def _store(self, offer: OfferedInstance, series: dict[str, SeriesId]) -> Answer:
        if offer.sop_class_uid != offer.context_sop_class_uid:
            log.event(LOGGER, "class_refused", level=logging.WARNING, peer=offer.peer)
            return Answer.CLASS_NOT_SUPPORTED
        if self._space.condition() is not None:
            return Answer.NO_RESOURCES
        received_at = self._clock.now()
        uids = read_uids(offer.dataset, implicit=offer.transfer_syntax_uid == IMPLICIT)
        if isinstance(uids, Flaw):
            return self._not_understood(offer, uids, received_at)
        if not _agree(offer, uids):
            self._quarantine(offer, QuarantineReason.UID, received_at)
            return Answer.MISMATCH
        # Only the transaction can tell what is new, and the file must be written before it. The ledger is asked
        # here as well where that avoids a series without images, for output of ours under another Series Instance UID,
        # or a file in a full quarantine.
        if uids.series_uid not in series or self._space.is_aside_full:
            known = self._ledger.intake.find_instance(uids.sop_instance_uid)
            if known is not None and known.is_derived:
                self._ledger.note(StoreOutcome.OWN_OUTPUT, table="instance", row=known.id, by=offer.peer)
                return Answer.STORED
            if known is not None and not self._space.has_room_aside() and self._is_new(offer, known):
                log.event(LOGGER, "object_not_set_aside", level=logging.WARNING, peer=offer.peer, instance=known.id)
                return Answer.NO_RESOURCES
            if uids.series_uid not in series:
                series[uids.series_uid] = self._ledger.intake.series_for(uids.series_uid, uids.study_uid)
        return self._keep(offer, series[uids.series_uid], received_at)

    def _is_new(self, offer: OfferedInstance, known: KnownInstance) -> bool:
        """Tell whether the bytes differ from those kept under the UID and from all that were set aside."""
        sha256 = digest(offer.dataset)
        return sha256 != known.sha256 and self._ledger.quarantine.file_of(known.id, sha256) is None

    def _keep(self, offer: OfferedInstance, series: SeriesId, received_at: datetime) -> Answer:
        """Write the object, then ask the ledger whether it is new: only its transaction can tell."""
        instance_id = new_instance_id()
        file = self._archive.put(
            series,
            instance_id,
            sop_class_uid=offer.sop_class_uid,
            sop_instance_uid=offer.sop_instance_uid,
            transfer_syntax_uid=offer.transfer_syntax_uid,
            dataset=offer.dataset,
            peer=offer.peer,
            received_at=received_at,
        )
        checkpoint("receive.renamed")
        instance = StoredInstance(
            id=instance_id,
            series=series,
            sop_class_uid=offer.sop_class_uid,
            sop_instance_uid=offer.sop_instance_uid,
            transfer_syntax_uid=offer.transfer_syntax_uid,
            size_bytes=len(offer.dataset),
            sha256=digest(offer.dataset),
            file=file,
            peer=offer.peer,
            received_at=received_at,
            is_pulled=offer.is_pulled,
            called_ae=offer.called_ae,
        )
        try:
            self._archive.sync([series])
            checkpoint("receive.folder_synced")
            outcome = self._commit.accept(instance)
        except OutcomeUnknownError:
            raise
        except (OSError, LedgerError):
            found = self._outcome_after_all(instance)
            if found is None:
                raise
            outcome = found
        if outcome is not StoreOutcome.STORED:
            self._set_aside(instance, outcome)
        return Answer.STORED

    def _outcome_after_all(self, instance: StoredInstance) -> StoreOutcome | None:
        """Look after a failed commit: a file that surely has no row is removed; in doubt it stays, as an orphan."""
        try:
            known = self._ledger.intake.find_instance(instance.sop_instance_uid)
            if known is not None and instance.file == known.file:
                return StoreOutcome.STORED
            if known is not None and self._ledger.quarantine.file_of(known.id, instance.sha256) == _name(instance):
                return StoreOutcome.CONFLICT
        except LedgerError:
            return None
        self._archive.discard(instance.file)
        return None

    def _set_aside(self, instance: StoredInstance, outcome: StoreOutcome) -> None:
        """Set aside an instance whose UID is taken. Output of ours, and a copy of a whole file, are removed instead."""
        if outcome is StoreOutcome.OWN_OUTPUT:
            self._archive.discard(instance.file)
            return
        first = self._ledger.intake.find_instance(instance.sop_instance_uid)
        assert first is not None, "an object whose UID is taken has its first"
        if outcome is StoreOutcome.DUPLICATE:
            self._drop_or_restore(instance, first)
        elif outcome is StoreOutcome.ASIDE_ALREADY:
            name = self._ledger.quarantine.file_of(first.id, instance.sha256)
            assert name is not None, "the ledger has just found it"
            self._archive.replace_aside(instance.file, name)
        else:
            self._archive.set_aside(instance.file)
            level = logging.INFO if outcome is StoreOutcome.OTHER_ENCODING else logging.WARNING
            log.event(
                LOGGER, "object_set_aside", level=level, reason=outcome, peer=instance.peer, series=instance.series,
                instance=first.id,
            )  # fmt: skip
            self._space.has_room_aside()  # measured for the next instances

    def _drop_or_restore(self, copy: StoredInstance, first: KnownInstance) -> None:
        """Remove a copy of a file that lies whole in the archive, or put it in place of a lost or altered first file.

        The row gets the name of the copy. The old name may be that of a file that is being removed at this moment.
        """
        state = self._archive.verify(first.file, first.sha256)
        if state is FileState.WHOLE:
            self._archive.discard(copy.file)
            return
        if state is FileState.ALTERED:
            found = digest_of_anything(self._archive.path(first.file))
            altered = QuarantinedFile(
                file=self._archive.set_aside(first.file),
                reason=QuarantineReason.ALTERED,
                sha256=found,
                peer=copy.peer,
                instance=first.id,
                kept_sha256=first.sha256,
            )
            self._record(altered)
        self._ledger.removals.put_back(first.id, copy.file, f"its file was {state}", copy.peer)
        log.event(LOGGER, "instance_restored", level=logging.WARNING, peer=copy.peer, instance=first.id, state=state)

    def _not_understood(self, offer: OfferedInstance, why: str, received_at: datetime) -> Answer:
        log.event(LOGGER, "object_not_understood", level=logging.WARNING, peer=offer.peer, detail=why)
        self._quarantine(offer, QuarantineReason.HEADER, received_at, most_bytes=QUARANTINE_HEAD_BYTES)
        return Answer.NOT_UNDERSTOOD

    def _quarantine(
        self, offer: OfferedInstance, reason: QuarantineReason, received_at: datetime, *, most_bytes: int | None = None
    ) -> None:
        """Set the bytes, or the first of them, aside: they never were in the archive, and the answer says so."""
        if not self._space.has_room_aside():
            log.event(LOGGER, "object_not_set_aside", level=logging.WARNING, peer=offer.peer, reason=reason)
            return
        kept = offer.dataset[:most_bytes]
        file = self._archive.quarantine.put(
            kept,
            sop_class_uid=offer.sop_class_uid,
            sop_instance_uid=offer.sop_instance_uid,
            transfer_syntax_uid=offer.transfer_syntax_uid,
            peer=offer.peer,
            received_at=received_at,
        )
        checkpoint("receive.quarantined")
        self._record(
            QuarantinedFile(
                file=file, reason=reason, sha256=digest(kept), peer=offer.peer, instance=None, kept_sha256=None
            )
        )

    def _record(self, file: QuarantinedFile) -> None:
        row = self._ledger.quarantine.record(file)
        log.event(
            LOGGER,
            "object_quarantined",
            level=logging.WARNING,
            quarantine=row,
            reason=file.reason,
            peer=file.peer,
            instance=file.instance,
        )

    def _refused(self, exc: NodeError, answer: Answer) -> Answer:
        log.event(
            LOGGER,
            "object_not_stored",
            level=logging.ERROR,
            code=exc.code,
            status=f"{answer:04X}",
            sentence=exc.sentence,
            hint=exc.hint or None,
        )
        return answer


def _agree(offer: OfferedInstance, uids: HeaderUids) -> bool:
    """Tell whether the dataset has the UIDs that the command names, and all its UIDs are harmless.

    Not only valid UIDs are accepted: an archive takes what scanners write, and the verdict says what is wrong with it.
    """
    told = (offer.sop_class_uid, offer.sop_instance_uid)
    return told == (uids.sop_class_uid, uids.sop_instance_uid) and all(
        is_harmless_uid(uid) for uid in (*told, uids.study_uid, uids.series_uid)
    )


def _name(instance: StoredInstance) -> str:
    """Return the name of an instance's file, the same in its series' folder and in quarantine."""
    return PurePath(instance.file).name
