"""Take the facts on a scanner from one judged series: its device, its protocol, the geometry, and its clock.

In: the verdict, the slices that it was reached on, and the instances. Out: a ``Judgement`` for the ledger. DICOM has no
request for the time of another machine. But an image states when it was made, and cannot have been made after it
arrived: the stated time of the youngest image, minus the time of its arrival, is above zero only where the clock of
the scanner, or ours, is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Final

from dicomnode.imaging.frame import Frame, Slice
from dicomnode.imaging.headers import InstanceHeader
from dicomnode.imaging.verdict import Verdict, VerdictReason
from dicomnode.ledger.judgements import Judgement
from dicomnode.ledger.values import ArchivedInstance
from dicomnode.visible import visible

DECIMALS: Final = 2  # of a length in mm: differences in the third are rounding of the headers
_MOMENTS: Final = ("InstanceCreation", "Content", "Acquisition")  # keywords of moments; each has a Date and a Time
_TIME: Final = re.compile(r"(\d{2})(?:(\d{2})(?:(\d{2})(?:\.\d{1,6})?)?)?")
_OFFSET: Final = re.compile(r"([+-])(\d{2})(\d{2})")


def told_by(verdict: Verdict, slices: Sequence[Slice], instances: Sequence[ArchivedInstance]) -> Judgement | None:
    """Collect the facts of a series. None: it was made here, or no header of it can be read."""
    headers = [one.header for one in slices if isinstance(one, Frame)]
    if verdict.reason is VerdictReason.OWN_OUTPUT or not headers:
        return None
    first = headers[0]
    return Judgement(
        peer=instances[0].peer,
        station=_shown(first, "StationName"),
        serial=_shown(first, "DeviceSerialNumber"),
        name=_shown(first, "ProtocolName") or _shown(first, "SeriesDescription"),
        at=max(one.received_at for one in instances),
        reason=verdict.reason,
        slices=verdict.slices,
        missing=verdict.missing_slices,
        spacing_mm=_rounded(verdict.slice_spacing_mm),
        thickness_mm=_rounded(verdict.slice_thickness_mm),
        clock_s=_clock_s(headers, instances),
    )


def made_at(header: InstanceHeader) -> datetime | None:
    """Return the moment when an image was made: the latest moment that its header states. None: it states none.

    Without Timezone Offset From UTC, the time is read in this machine's time zone (PS3.3 section C.12.1.1).
    """
    offset = _OFFSET.fullmatch(header.text("TimezoneOffsetFromUTC"))
    found = []
    for what in _MOMENTS:
        day, time = header.text(f"{what}Date"), _TIME.fullmatch(header.text(f"{what}Time"))
        if time is None:
            continue
        try:
            moment = datetime.strptime(day, "%Y%m%d").replace(  # noqa: DTZ007 (its zone follows)
                hour=int(time[1]), minute=int(time[2] or 0), second=min(int(time[3] or 0), 59)
            )
            found.append(moment.replace(tzinfo=_zone(*offset.groups())) if offset else moment.astimezone())
        except (ValueError, OverflowError):  # no such day or time, or one out of Python's range
            continue
    return max(found, default=None)


def _clock_s(headers: Sequence[InstanceHeader], instances: Sequence[ArchivedInstance]) -> float | None:
    arrived = {one.sop_instance_uid: one.received_at for one in instances}
    ahead = [
        (made - arrived[header.sop_instance_uid]).total_seconds()
        for header in headers
        if header.sop_instance_uid in arrived and (made := made_at(header)) is not None
    ]
    return max(ahead, default=None)


def _zone(sign: str, hours: str, minutes: str) -> timezone:
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-east if sign == "-" else east)


def _shown(header: InstanceHeader, keyword: str) -> str:
    return visible(header.text(keyword)).strip()


def _rounded(length_mm: float | None) -> float | None:
    return None if length_mm is None else round(length_mm, DECIMALS)
