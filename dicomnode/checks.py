"""Checks whether the node can run, before the first image comes: settings, disk, ledger, models, peers.

``check`` looks at all of it and changes nothing. A start asks the same of its data folder, its rules and its models,
and refuses with the same sentences.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from dicomnode.archive import Archive
from dicomnode.catalog import ModelCatalog, has_choice, is_fast_default
from dicomnode.errors import ClusterError, ModelError, NodeError, SettingsError, StorageError
from dicomnode.generators.base import no_sharpness
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.ledger.engine import ledger_path, require_usable
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.values import ImportedModel
from dicomnode.ledger.views import ModelChoice, WaitingModel
from dicomnode.push.carriers import carriers_of
from dicomnode.receive.space import ASIDE_SHARE_PERCENT
from dicomnode.rules import model_wanted
from dicomnode.seams import SYSTEM_CLOCK
from dicomnode.settings.models import Settings
from dicomnode.settings.peers import PeerSettings
from dicomnode.settings.rules import RuleSettings
from dicomnode.tls.certificate import in_pem
from dicomnode.tls.identity import Age, age_of, held_certificates
from dicomnode.work.cluster import Cluster
from dicomnode.work.look import WorkerSeen, look_at, others_may_read

LOGGER = logging.getLogger(__name__)

NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "9p", "fuse.sshfs")  # no shared memory for WAL


RENEWAL = "Put the new certificate, with its key, in the place of the old one: the running node takes it by itself."
CLUSTER = "cluster"  # the names of the cluster's lines begin so


class Mark(StrEnum):
    """The result of one check."""

    OK = "ok"
    WARN = "warn"  # the node would run, perhaps not as intended
    FAIL = "fail"  # the node would not start, or not do its work


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One line of the check sheet."""

    what: str
    mark: Mark
    sentence: str
    hint: str = ""


def check(settings: Settings, *, with_echo: bool = False) -> list[CheckRow]:
    """Look for everything that would keep the node from its work; return one line for each check.

    It changes nothing, and may run beside the service.

    ``with_echo`` also asks each peer that is sent to for an answer (C-ECHO, or a search by QIDO-RS).
    """
    rows = [
        CheckRow(
            what="settings",
            mark=Mark.OK if any(settings.is_delivered_to(peer.name) for peer in settings.peer) else Mark.WARN,
            sentence=introduction(settings, *_configured_ports(settings)),
        )
    ]
    rows += _check_disk(settings)
    rows += _check_ledger(settings)
    rows += _check_models(settings)
    rows += _check_tls(settings)
    rows += _check_cluster(settings)
    rows += [_check_peer(settings, peer, with_echo=with_echo) for peer in settings.peer]
    return rows


def _check_disk(settings: Settings) -> Iterator[CheckRow]:
    data = settings.node.data.absolute()
    archive = Archive(next(folder for folder in (data, *data.parents) if folder.is_dir()))
    try:
        require_room_for(data)
        archive.require_restored()
        ensure_writable(archive)
    except StorageError as exc:
        yield CheckRow(what="data folder", mark=Mark.FAIL, sentence=exc.sentence, hint=exc.hint)
        return
    state = "can be written to" if archive.data == data else "does not exist yet; it will be made"
    yield CheckRow(what="data folder", mark=Mark.OK, sentence=f"{data} {state}.")
    free, limit = archive.free_percent(), settings.archive.refuse_free_percent
    is_scarce = free < settings.archive.warn_free_percent
    room = f"{archive.free_bytes() / 2**30:.1f} GiB are free, {free:.0f} %"
    yield CheckRow(
        what="free space",
        mark=Mark.FAIL if free <= limit else Mark.WARN if is_scarce else Mark.OK,
        sentence=f"{room}; below {limit:g} % nothing is accepted.",
        hint="" if free > limit and not is_scarce else "Make room, or lower archive.refuse_free_percent.",
    )
    yield _check_quarantine(archive)
    if (kind := _filesystem(archive.data)) in NETWORK_FILESYSTEMS:
        yield _on_network(data, kind, "Set `node.data` to a disk of this machine.")


def _check_quarantine(archive: Archive) -> CheckRow:
    taken, share = archive.aside_bytes(), archive.size_bytes() * ASIDE_SHARE_PERCENT / 100
    return CheckRow(
        what="quarantine",
        mark=Mark.OK if taken < share else Mark.WARN,
        sentence=f"{taken / 2**20:.1f} MiB lie there; beyond {share / 2**30:.1f} GiB ({ASIDE_SHARE_PERCENT:g} % of the "
        "disk) nothing more is set aside.",
        hint="" if taken < share else "`dicomnode quarantine list`; what was seen may be removed from the folder.",
    )


def _on_network(place: Path, kind: str, hint: str) -> CheckRow:
    return CheckRow(
        what="file system",
        mark=Mark.FAIL,
        sentence=f"{place} lies on a network file system ({kind}), where a SQLite ledger may be damaged.",
        hint=hint,
    )


def _check_ledger(settings: Settings) -> Iterator[CheckRow]:
    """Check what `serve` would find: it makes a ledger where there is none, in a folder that is there."""
    try:
        path = ledger_path(settings.ledger_url)
        if (kind := _filesystem(path)) in NETWORK_FILESYSTEMS and settings.ledger.url:
            yield _on_network(path, kind, "Set `ledger.url` to a file on a disk of this machine.")
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


def _check_models(settings: Settings) -> Iterator[CheckRow]:
    catalog = catalog_of(settings)
    names = {model_wanted(rule) or catalog.default: rule for rule in reversed(settings.rule)}
    for name in sorted(names):
        rule = names[name]
        try:
            facts = catalog.verified(name)
            for rule in (one for one in settings.rule if (model_wanted(one) or catalog.default) == name):
                _refuse_sharpness(rule, facts)
        except ModelError as exc:
            sentence = f"Rule {rule.name} asks for it: {exc.sentence}"
            yield CheckRow(what=f"model {name}", mark=Mark.FAIL, sentence=sentence, hint=exc.hint)
        else:
            lowest, highest = facts.ratios
            dial = "" if facts.sharpness is None else f" sharpness {facts.sharpness:g} unless a rule says otherwise,"
            sentence = f"Kind {facts.kind}, ratios {lowest}–{highest},{dial} digest {facts.digest}: verified."
            yield CheckRow(what=f"model {name}", mark=Mark.OK, sentence=sentence)
    active, last = _models_of_ledger(settings)
    if is_choice_made(settings) and has_choice(active):
        sentence = last.sentence if last else "The service chooses the default model when it has started."
        yield CheckRow(what="model speed", mark=Mark.WARN if last and last.is_fast else Mark.OK, sentence=sentence)


def catalog_of(settings: Settings) -> ModelCatalog:
    """Return the catalog of a node, whose service may or may not run now."""
    active, last = _models_of_ledger(settings)
    is_fast = is_fast_default(settings.work.model_speed, last)
    return ModelCatalog(lambda: active, settings.node.data.absolute(), is_fast=is_fast)


def _check_cluster(settings: Settings) -> Iterator[CheckRow]:
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
        yield from _check_cluster_certificate(cluster)
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


def _check_cluster_certificate(cluster: Cluster) -> Iterator[CheckRow]:
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


def is_choice_made(settings: Settings) -> bool:
    """Tell whether the service chooses the default model by the time that it takes on this machine."""
    work = settings.work
    return (
        work.model_speed == "auto"
        and work.executor == "local"
        and any(model_wanted(rule) is None for rule in settings.rule)
    )


def _models_of_ledger(settings: Settings) -> tuple[dict[str, ImportedModel], ModelChoice | None]:
    """Return the active models, and the default one that the last start chose.

    There are none if the ledger does not exist or cannot be read: another line of the sheet says so.
    """
    try:
        with closing(open_reader(settings.ledger_url)) as reader:
            return reader.active_models(), reader.model_choice()
    except NodeError:
        return {}, None


def _check_tls(settings: Settings) -> Iterator[CheckRow]:
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


def _check_peer(settings: Settings, peer: PeerSettings, *, with_echo: bool) -> CheckRow:
    what = f"peer {peer.name}"
    ways = []
    if peer.networks:
        how = ", with TLS and its certificate only" if peer.is_bound else ""
        ways.append(f"may send as {peer.ae_title} from {', '.join(map(str, peer.networks))}{how}")
    if peer.address:
        ways.append(f"is sent to as {peer.ae_title} at {peer.address}{' with TLS' if peer.tls else ''}")
    if peer.url:
        ways.append(f"is sent to by DICOMweb at {peer.url}")
    sentence = f"It {' and '.join(ways)}."
    service = "DICOMweb" if peer.url else "C-ECHO"
    if peer.is_sent_to and with_echo:
        try:
            outcome = carriers_of(settings).echo(peer)
        except SettingsError as exc:  # fault of a file of [tls], which has a line of its own, or of a file of the peer
            return CheckRow(what=what, mark=Mark.FAIL, sentence=f"{sentence} {exc.sentence}", hint=exc.hint)
        if outcome.status != 0:
            return CheckRow(
                what=what, mark=Mark.FAIL, sentence=f"{sentence} {service}: {outcome.sentence}", hint=outcome.hint
            )
        sentence = f"{sentence} It answered {'a search' if peer.url else 'a C-ECHO'}."
    if peer.is_sent_to and not settings.is_delivered_to(peer.name):
        return CheckRow(what=what, mark=Mark.WARN, sentence=f"{sentence} No rule delivers to it.")
    if peer.committer:
        sentence = f"{sentence} {_registration(settings, peer)}"
    if peer.networks and settings.tls.listen and not settings.node.listen and not peer.is_bound:
        return CheckRow(
            what=what,
            mark=Mark.WARN,
            sentence=f"{sentence} Every certificate of an authority in tls.ca may come in as this peer.",
            hint="Name its certificate in `peer.fingerprints` or `peer.certificate_names`.",
        )
    return CheckRow(what=what, mark=Mark.OK, sentence=sentence)


def _registration(settings: Settings, peer: PeerSettings) -> str:
    """Say what to register at the committer of this peer, so that its reports arrive here."""
    asked = "It" if peer.committer == peer.name else f"Peer {peer.committer}"
    if peer.committer not in settings.committers:
        return f"{asked} is asked for storage commitment by DICOMweb; without it, what it got is looked up by QIDO-RS."
    ports = " or ".join(str(port) for port in _configured_ports(settings) if port)
    return (
        f"{asked} is asked for storage commitment: for its reports, {settings.node.ae_title} is to be registered there "
        f"with the address of this machine and port {ports}."
    )


def _configured_ports(settings: Settings) -> tuple[int, int]:
    return settings.node.port if settings.node.listen else 0, settings.tls.port if settings.tls.listen else 0


def introduction(settings: Settings, port: int, tls_port: int = 0) -> str:
    """Say on which addresses the node listens (port 0: not) and to which peers it sends."""
    senders = ", ".join(peer.name for peer in settings.peer if peer.networks) or "nobody"
    receivers = ", ".join(
        peer.name for peer in settings.peer if peer.is_sent_to and settings.is_delivered_to(peer.name)
    )
    doors = [f"{settings.node.host}:{port}"] if settings.node.listen else []
    doors += [f"{settings.tls.host}:{tls_port} with TLS"] if settings.tls.listen else []
    where = f"Listens on {' and on '.join(doors)} as {' and as '.join(settings.node.titles)} to {senders}"
    if receivers:
        return f"{where}; sends to {receivers}."
    return (
        f"{where}; nothing is delivered until the settings name a peer with an address or url and a rule that delivers "
        "to it."
    )


def _filesystem(folder: Path) -> str:
    """Return the kind of file system of a folder, by the longest mount point above it (proc(5), mountinfo)."""
    found, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        fields = line.split()
        mount = fields[4].replace("\\040", " ")
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(found):
            found, kind = mount, fields[fields.index("-") + 1]
    return kind


def known_models(settings: Settings, catalog: ModelCatalog) -> dict[str | None, ModelFacts]:
    """Return the facts of every model that a rule names, and of the default under None; all files are verified."""
    models: dict[str | None, ModelFacts] = {None: catalog.verified(None)}
    for rule in settings.rule:
        wanted = model_wanted(rule)
        try:
            if wanted not in models:
                models[wanted] = catalog.verified(wanted)
            _refuse_sharpness(rule, models[wanted])
        except ModelError as exc:
            name = wanted or models[None].name
            raise SettingsError(
                f"Rule {rule.name} asks for model {name}, which cannot be used: {exc.sentence}", hint=exc.hint
            ) from exc
    return models


def _refuse_sharpness(rule: RuleSettings, facts: ModelFacts) -> None:
    """Raise ModelError where a rule chooses between two sets of weights and the model has one."""
    if rule.sharpness is not None and facts.sharpness is None:
        raise no_sharpness(facts.name, rule.sharpness)


def require_room_for(data: Path) -> None:
    """Raise StorageError where the data folder neither is a folder nor can become one."""
    if (taken := next((place for place in (data, *data.parents) if os.path.lexists(place)), data)) and (
        not taken.is_dir()
    ):
        raise StorageError(
            f"The data folder {data} cannot be used: {taken} is not a folder; the node did not start.",
            hint="Set `node.data` to a folder.",
        )


def ensure_writable(archive: Archive) -> None:
    """Raise StorageError where nothing can be written, so that the start fails and not the first instance."""
    try:
        with tempfile.TemporaryFile(dir=archive.data):
            pass
    except OSError as exc:
        raise StorageError(
            f"Nothing can be written to the data folder {archive.data}: {exc.strerror}; the node did not start.",
            hint="Mount it writable and give the node's user write permission, or set `node.data`.",
        ) from exc
