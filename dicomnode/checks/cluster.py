"""The cluster on which models run: what ``check`` and ``status`` say of it, and what a start demands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dicomnode.checks.models import catalog_of
from dicomnode.checks.row import CheckRow, Mark
from dicomnode.errors import ClusterError, ModelError, NodeError, SettingsError
from dicomnode.ledger.views import WaitingModel
from dicomnode.rules import model_wanted
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.models import Settings
from dicomnode.tls.certificate import in_pem
from dicomnode.tls.identity import Age, age_of
from dicomnode.work.cluster import Cluster
from dicomnode.work.look import WorkerSeen, look_at, others_may_read

CLUSTER = "cluster"  # the names of the cluster's lines begin so


def check_cluster(settings: Settings) -> Iterator[CheckRow]:
    """Check the scheduler, every worker, and that each model that a rule asks for is offered."""
    try:
        cluster = require_cluster(settings)
        if cluster is None:
            return
        if others_may_read(cluster.key):
            yield CheckRow(
                what=CLUSTER, mark=Mark.FAIL, sentence=f"Every user of this machine may read the key {cluster.key}.",
                hint=f"chmod o= {cluster.key}",
            )  # fmt: skip
        yield from _check_certificate(cluster)
        seen = look_at(cluster, with_echo=True)
    except NodeError as exc:
        yield CheckRow(what=CLUSTER, mark=Mark.FAIL, sentence=exc.sentence, hint=exc.hint)
        return
    yield CheckRow(
        what=CLUSTER, mark=Mark.OK if seen.workers else Mark.FAIL,
        sentence=f"The scheduler at {seen.address} answers; {len(seen.workers)} workers are registered.",
        hint="" if seen.workers else "Start `dicomnode worker` on the machines that are to run models.",
    )  # fmt: skip
    for worker in seen.workers:
        rate = "no answer to a megabyte" if worker.mb_per_s is None else f"{worker.mb_per_s:.0f} MB/s there and back"
        differ = f" It differs: {versions}." if (versions := worker.differences) else ""
        yield CheckRow(
            what=f"{CLUSTER} {worker.address}",
            mark=Mark.OK if worker.state in ("idle", "busy") and worker.mb_per_s is not None else Mark.WARN,
            sentence=f"{worker.state.capitalize()}, {worker.device or 'unknown device'}, Python {worker.python}, "
            f"{len(worker.models)} models, {rate}.{differ}",
            hint="Install the same versions there, or set `work.device`." if worker.state == "other" else "",
        )
    catalog = catalog_of(settings)
    for name in sorted({model_wanted(rule) or catalog.default for rule in settings.rule}):
        with suppress(ModelError):  # another line of the sheet says so
            facts = catalog.model_of(name)
            if facts.digest not in seen.offered:
                yield CheckRow(
                    what=f"{CLUSTER} model {name}", mark=Mark.FAIL, sentence=_nobody_offers(name, facts.digest),
                    hint="Add it to `worker.models` of a worker, or see why its workers are not idle or busy.",
                )  # fmt: skip


def _check_certificate(cluster: Cluster) -> Iterator[CheckRow]:
    """Check how long our certificate is valid. A file that cannot be read is the matter of another line."""
    try:
        held = in_pem(Path(cluster.cert).read_text("ascii"))
    except (OSError, ValueError):
        return
    now = SYSTEM_CLOCK.now()
    for certificate in held[:1]:
        age = age_of(certificate, now)
        yield CheckRow(
            what=f"{CLUSTER} certificate",
            mark={Age.VALID: Mark.OK, Age.SOON: Mark.WARN, Age.URGENT: Mark.WARN}.get(age, Mark.FAIL),
            sentence=f"Our certificate {cluster.cert} ends on {certificate.not_after:%Y-%m-%d}, "
            f"in {(certificate.not_after - now).days} days.",
            hint="" if age is Age.VALID else "Replace the file and its key, and restart the node.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The state of the cluster, as `status` shows it."""

    address: str
    sentences: tuple[str, ...]  # the reasons why jobs wait
    workers: tuple[WorkerSeen, ...]


def cluster_status(cluster: Cluster, waiting: Sequence[WaitingModel]) -> ClusterStatus:
    """Look at the cluster, and name the models that queued jobs need and no worker offers."""
    try:
        seen = look_at(cluster, with_echo=False)
    except ClusterError as exc:
        return ClusterStatus(address=cluster.address, sentences=(exc.sentence,), workers=())
    sentences = tuple(
        f"{_nobody_offers(one.model, one.digest)[:-1]}; {one.jobs} jobs wait since "
        f"{one.since.astimezone():%Y-%m-%d %H:%M}."
        for one in waiting
        if one.digest not in seen.offered
    )
    return ClusterStatus(address=cluster.address, sentences=sentences, workers=seen.workers)


def _nobody_offers(model: str, digest: str) -> str:
    return f"No worker of the cluster offers model {model} (digest {digest})."


def require_cluster(settings: Settings) -> Cluster | None:
    """Return the cluster on which the models run; None: this machine. Raises SettingsError without the engine."""
    if settings.work.executor == "local":
        return None
    if find_spec("distributed") is None:
        raise SettingsError(
            'work.executor is "dask", whose engine is not installed.',
            hint="pip install 'dicomnode[cluster]', or set work.executor to \"local\".",
        )
    return Cluster(address=settings.work.cluster, device=settings.work.device, **settings.cluster.model_dump())
