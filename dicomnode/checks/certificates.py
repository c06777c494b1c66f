"""Check the certificate files that ``tls`` names."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import SettingsError
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.models import Settings
from dicomnode.tls.identity import Age, held_certificates

RENEWAL = "Put the new certificate, with its key, in the place of the old one: the running node takes it by itself."


def check_certificates(settings: Settings) -> Iterator[CheckRow]:
    """Show our certificate to the people who register it, and name the authorities that soon expire."""
    try:
        certificates = held_certificates(settings.tls, SYSTEM_CLOCK.now())
    except SettingsError as exc:
        yield CheckRow(what="tls", mark=Mark.FAIL, sentence=exc.sentence, hint=exc.hint)
        return
    for held in certificates:
        is_ours, is_fine = held.key == "tls.certificate", held.age is Age.VALID
        if not is_ours and is_fine:
            continue
        is_over = held.age in (Age.EXPIRED, Age.NOT_YET)
        names = f" It names {', '.join(held.names) or 'nobody'}; its SHA-256 is {held.fingerprint}." if is_ours else ""
        yield CheckRow(
            what="certificate" if is_ours else "authority",
            mark=Mark.OK if is_fine else Mark.FAIL if is_over and is_ours else Mark.WARN,
            sentence=f"{held.sentence}{names}",
            hint="" if is_fine else RENEWAL,
        )
