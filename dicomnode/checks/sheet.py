"""Put the lines of ``check`` in order: settings, disk, ledger, models, certificates, cluster, peers.

It looks at all of it and changes nothing. A start asks the same of its data folder, its rules and its models, with the
functions of the same files, and refuses with the same sentences.
"""

from __future__ import annotations

from dicomnode.checks.certificates import check_certificates
from dicomnode.checks.cluster import check_cluster
from dicomnode.checks.disk import check_disk
from dicomnode.checks.ledger import check_ledger
from dicomnode.checks.models import check_models
from dicomnode.checks.peers import check_peer, check_settings
from dicomnode.checks.row import CheckRow
from dicomnode.settings.models import Settings


def check(settings: Settings, *, with_echo: bool = False) -> list[CheckRow]:
    """Look for everything that would keep the node from its work; return one line for each check.

    It changes nothing, and may run beside the service.

    ``with_echo`` also asks each peer that is sent to for an answer (C-ECHO, or a search by QIDO-RS).
    """
    return [
        check_settings(settings),
        *check_disk(settings),
        *check_ledger(settings),
        *check_models(settings),
        *check_certificates(settings),
        *check_cluster(settings),
        *(check_peer(settings, peer, with_echo=with_echo) for peer in settings.peer),
    ]
