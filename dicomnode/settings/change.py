"""Merge settings that were read anew into those of a running node: two ``Settings`` in, those to use from then on out.

The node takes rules, peers, settle times, patience with peers, alerts, further AE titles and the certificate files of
TLS while it runs. The parts opened at its start (data folder, ledger, listeners, workers) stay until a restart; keys of
theirs that changed are named. Nothing is opened or started here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dicomnode.settings.models import Settings
from dicomnode.strict_toml import StrictModel

TAKEN_TABLES: Final = ("settle", "push", "alert", "peer", "rule")
TAKEN_KEYS: Final = {"node": ("ae_titles",), "tls": ("certificate", "key", "ca")}  # of tables of the start
OF_OTHER_COMMANDS: Final = ("worker", "scheduler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The settings that a running node uses from now on."""

    settings: Settings
    taken: tuple[str, ...]  # keys, or names of lists, whose new values are in ``settings``
    waiting: tuple[str, ...]  # keys whose new values need a restart


def change(running: Settings, read: Settings) -> Change:
    """Lay the new values that the node can take over the settings that it runs with."""
    tables: dict[str, object] = {table: getattr(read, table) for table in TAKEN_TABLES}
    for table, keys in TAKEN_KEYS.items():
        if table == "tls" and running.tls.listen and not read.tls.certificate:
            continue  # a listener that is open needs a certificate and keeps the one that it has
        found = getattr(read, table)
        tables[table] = getattr(running, table).model_copy(update={key: getattr(found, key) for key in keys})
    used = running.model_copy(update=tables)
    return Change(
        settings=used, taken=tuple(_differences(running, used)), waiting=tuple(_differences(used, read))
    )  # fmt: skip


def _differences(one: Settings, other: Settings) -> Iterator[str]:
    """Name the keys of the node that differ; for a list of tables, only its name."""
    for name in Settings.model_fields:
        mine, others = getattr(one, name), getattr(other, name)
        if mine == others or name in OF_OTHER_COMMANDS:
            continue
        if not isinstance(mine, StrictModel):
            yield name
            continue
        yield from (f"{name}.{key}" for key in type(mine).model_fields if getattr(mine, key) != getattr(others, key))
