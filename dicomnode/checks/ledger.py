"""Check the ledger: its version, and the rows that wait for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from dicomnode.checks.file_system import check_file_system
from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import NodeError
from dicomnode.ledger.engine import ledger_path, require_usable
from dicomnode.ledger.queries import open_reader
from dicomnode.settings.models import Settings


def check_ledger(settings: Settings) -> Iterator[CheckRow]:
    """Check what `serve` would find: it makes a ledger where there is none, in a folder that is there."""
    try:
        path = ledger_path(settings.ledger_url)
        if settings.ledger.url:
            yield from check_file_system(path, "Set `ledger.url` to a file on a disk of this machine.")
        is_made = require_usable(
            settings.ledger_url, is_folder_made=path.parent.resolve() == settings.node.data.resolve()
        )
        if is_made:
            yield CheckRow(
                what="ledger",
                mark=Mark.OK,
                sentence=f"There is none yet; `dicomnode serve` makes an empty one: {path}.",
            )
            return
        with closing(open_reader(settings.ledger_url, peers=settings.reachable_peers)) as reader:
            reader.require_sound()
            status = reader.status()
    except NodeError as exc:
        yield CheckRow(what="ledger", mark=Mark.FAIL, sentence=exc.sentence, hint=exc.hint)
        return
    held = len(status.attention)
    yield CheckRow(
        what="ledger",
        mark=Mark.WARN if held else Mark.OK,
        sentence=f"Version {status.version}, {status.instances} instances; {held} rows wait for a person.",
        hint="`dicomnode status` names them." if held else "",
    )
    for peer, number in status.no_peer.items():
        yield CheckRow(
            what=f"peer {peer}",
            mark=Mark.WARN,
            sentence=f"The settings name no peer {peer} with an address or url, and {number} deliveries are due to it.",
            hint="Name the peer again, or see `dicomnode deliveries list --reason no_peer`: `deliveries retry ID --to "
            "PEER` sends one to another, `deliveries cancel ID` gives it up.",
        )
