"""Find the folders of studies that a user named by folder or by Study Instance UID."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from dicomnode.cli.options import find_peer, load_settings, reader, writer
from dicomnode.errors import InputError, PeerError

studies_option = click.option(
    "--studies",
    metavar="DIR|UID…",
    multiple=True,
    help="Use the series in these folders, or of these Study Instance UIDs in the node's archive. No default.",
)
inventory_option = click.option(
    "--inventory",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use only the series that this TOML file lists with label, subject, split and licence. Default: every series.",
)
from_option = click.option(
    "--from",
    "from_peer",
    metavar="PEER",
    help="Pull the studies that are named by UID from this peer first. Default: take them from the archive.",
)
UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def study_folders(words: tuple[str, ...], config: Path | None) -> Iterator[Path]:
    """Yield folders as they are, and for a Study Instance UID the folders of its series in the node's archive."""
    uids = _uids(words)
    yield from (Path(word) for word in words if word not in uids)
    if not uids:
        return
    from dicomnode.imaging.headers import InstanceHeader, read_header_or_reason  # importing pydicom is slow

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


def pull_first(words: tuple[str, ...], peer: str, config: Path | None) -> None:
    """Pull the studies that are named by UID. Raises PeerError where an instance does not come."""
    uids = _uids(words)
    if not uids:
        raise InputError("--from names a peer, and no study is named by UID.", hint="Name Study Instance UIDs.")
    settings = load_settings(config)
    chosen = find_peer(settings, peer)
    from dicomnode.pull import fetch
    from dicomnode.pull.opened import opened

    with writer(config) as ledger, opened(settings, chosen) as source:
        found = fetch.find_series(source, fetch.Wish(studies=tuple(uids), matches={}))
        rows = [fetch.fetch(source, ledger, one) for one in found]
    absent = sum(row.wanted - row.here for row in rows)
    if absent:
        raise PeerError(f"{absent} of {sum(row.wanted for row in rows)} instances did not come from {peer}.")


def _uids(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if UID.fullmatch(word) and not Path(word).exists()]
