"""The viewer of a derived series: before and after in three planes, and the link to the viewer of the PACS.

The images are patient data, and are shown only to those who have shown the token. Opening the viewer is an event of
the ledger with the person's name, and its pictures can be asked for only after that event is written.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote

from dicomnode.errors import InputError
from dicomnode.ids import is_harmless_uid
from dicomnode.imaging.headers import read_header
from dicomnode.ledger.views import InstanceLine, JobLine
from dicomnode.settings.web import STUDY_UID
from dicomnode.web.exchange import PNG, Answer, see_other
from dicomnode.web.pages import Visit, done_job
from dicomnode.web.pictures import DIFFERENCE_SHARE, Pair, Plane, What, letters

Word = TypeVar("Word", bound=str)

VIEWED: Final = "viewed"  # kinds of events
SENT_TO_VIEWER: Final = "sent_to_viewer"

PLANES: Final = {
    Plane.COLUMN: "across the slices, fixed column",
    Plane.ROW: "across the slices, fixed row",
    Plane.SLICE: "in the slice",
}
MODES: Final = {"wipe": "Wipe", "side": "Side by side", "difference": "Difference"}


def images(visit: Visit, number: int) -> Answer:
    """Show the viewer; an event with the person's name is written first."""
    _require_token(visit)
    job, received, derived = _files(visit, number)
    plane = _one_of(visit, "plane", tuple(PLANES), Plane.COLUMN)
    mode = _one_of(visit, "mode", tuple(MODES), "wipe")
    pair = visit.node.pictures.pair(received, derived)
    with visit.node.writer() as ledger:
        ledger.note(VIEWED, table="series", row=number, detail="images", by=visit.person.actor)
    return visit.show(
        "images.html",
        number=number,
        job=job,
        plane=plane,
        planes=PLANES,
        mode=mode,
        modes=MODES,
        pair=pair,
        letters=letters(pair, plane),
        full=DIFFERENCE_SHARE,
        look=visit.entry.look(visit.person, number),
    )


def picture(visit: Visit, number: int, what: str, plane: str, place: int) -> Answer:
    """Return one picture of a viewer that is open."""
    _require_token(visit)
    if not visit.entry.is_look(visit.person, number, visit.request.asked("look")):
        return Answer(status=HTTPStatus.FORBIDDEN, body=b"Open the images of the series again.\n")
    _, received, derived = _files(visit, number)
    pair: Pair = visit.node.pictures.pair(received, derived)
    return Answer(body=visit.node.pictures.png(pair, What(what), Plane(plane), place), content_type=PNG)


def viewer(visit: Visit, number: int) -> Answer:
    """Send the person to the PACS's viewer of the study; only there its UID is named."""
    _require_token(visit)
    url = visit.node.settings.web.viewer_url
    if not url:
        raise InputError("No viewer is configured.", hint="The key web.viewer_url names one.")
    files = visit.node.reader.series_show(number).files
    uid = read_header(visit.node.archive.path(files[0].file)).text("StudyInstanceUID") if files else ""
    if not is_harmless_uid(uid):
        raise InputError(f"Series {number} names no study.")
    with visit.node.writer() as ledger:
        ledger.note(SENT_TO_VIEWER, table="series", row=number, by=visit.person.actor)
    return see_other(url.replace(STUDY_UID, quote(uid)))


def _files(visit: Visit, number: int) -> tuple[JobLine, list[InstanceLine], list[InstanceLine]]:
    """Return the job of a series, the files that it was made from, and those that it made."""
    job = done_job(visit.node.reader.series_show(number))
    if job is None or job.output_series is None:
        raise InputError(f"Nothing was derived from series {number}, so there is nothing to compare.")
    received = [one for one in visit.node.reader.series_show(job.series).files if one.revision <= job.revision]
    return job, received, list(visit.node.reader.series_show(job.output_series).files)


def _require_token(visit: Visit) -> None:
    if not visit.person.may_see_images:
        raise InputError(
            "Images are patient data, and this page asks for no token.", hint="The key web.token_file names one."
        )


def _one_of(visit: Visit, name: str, words: tuple[Word, ...], otherwise: Word) -> Word:
    asked = visit.request.asked(name)
    return next((word for word in words if word == asked), otherwise)
