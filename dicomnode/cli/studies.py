"""Studies as users name them: folders, or Study Instance UIDs that the node's archive is searched for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dicomnode.cli.options import load_settings, reader
from dicomnode.errors import InputError

UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def study_folders(words: tuple[str, ...], config: Path | None) -> Iterator[Path]:
    """Folders as they are; a Study Instance UID becomes the folders of its series in the node's archive."""
    uids = [word for word in words if UID.fullmatch(word) and not Path(word).exists()]
    yield from (Path(word) for word in words if word not in uids)
    if not uids:
        return
    from dicomnode.imaging.headers import InstanceHeader, read_header_or_reason  # pydicom takes its time

    archive = load_settings(config).node.data / "archive"
    found: dict[str, list[Path]] = {uid: [] for uid in uids}
    with reader(config) as ledger:
        numbers = sorted(line.id for line in ledger.series_list())
    for number in numbers:
        folder = archive / str(number)
        header = next((read_header_or_reason(path) for path in sorted(folder.glob("*.dcm"))), None)
        if isinstance(header, InstanceHeader) and header.study_uid in found:
            found[header.study_uid].append(folder)
    for position, uid in enumerate(uids, start=1):
        if not found[uid]:
            raise InputError(f"Study {position} of those named by UID is not in the node's archive.")
        yield from found[uid]
