"""Look at the cluster of a node, for `check` and `status`: whether it can be reached, its workers, and their speed.

The engine is loaded here, so whoever holds a certificate of the cluster can run code in a process that looks. The
service never looks; a command of an operator does, for some seconds.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dicomnode import __version__
from dicomnode.errors import ClusterError
from dicomnode.work.cluster import MODEL_LABEL, Cluster, offered_digests

CONNECT_S = 5.0
ANSWER_S = 10.0
ECHO_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """One worker of the cluster."""

    address: str
    state: str  # idle, busy, paused (it is about to end), other (another version, or device, than this node asks for)
    device: str
    models: tuple[str, ...]  # digests
    version: str
    torch: str
    python: str
    engine: str
    mb_per_s: float | None = None  # there and back, of one megabyte; None: not measured

    @property
    def differences(self) -> str:
        """The versions that differ between here and there, in words; empty where none does."""
        here = {"dicomnode": __version__, "torch": version("torch"), "distributed": version("distributed")}
        there = {"dicomnode": self.version, "torch": self.torch, "distributed": self.engine}
        return ", ".join(
            f"{name} {there[name] or 'unknown'} (here {here[name]})"
            for name in here
            if here[name].partition("+")[0] != there[name].partition("+")[0]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSeen:
    """The cluster as a node sees it."""

    address: str
    workers: tuple[WorkerSeen, ...]

    @property
    def offered(self) -> frozenset[str]:
        """The digests of the models that a worker takes calls for."""
        return frozenset(one for worker in self.workers if worker.state in ("idle", "busy") for one in worker.models)


def look_at(cluster: Cluster, *, with_echo: bool) -> ClusterSeen:
    """Connect and list the workers; ``with_echo`` sends a megabyte to each. Raises ClusterError, which says why not."""
    knock(cluster)
    from distributed import Client

    from dicomnode.work import engine

    engine.set_up()
    try:
        with Client(
            cluster.address, security=engine.security(cluster), timeout=engine.CONNECT_S, set_as_default=False
        ) as client:
            found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)
            rates = {address: _echo(client, address) for address in found["workers"]} if with_echo else {}
    except (OSError, TimeoutError) as exc:
        raise _unreachable(cluster, "it did not answer in time") from exc
    workers = (_seen(address, one, cluster, rates.get(address)) for address, one in found["workers"].items())
    return ClusterSeen(address=cluster.address, workers=tuple(sorted(workers, key=lambda one: one.address)))


def knock(cluster: Cluster) -> None:
    """Connect to the scheduler once, without the engine. Raises ClusterError, which says what is wrong."""
    host, _, port = cluster.address.removeprefix("tls://").rpartition(":")
    try:
        context = ssl.create_default_context(cafile=cluster.ca)
        context.check_hostname = False  # the authority signs for the cluster alone
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(cluster.cert, cluster.key)
    except ssl.SSLError as exc:
        what = "do not belong together" if exc.reason == "KEY_VALUES_MISMATCH" else "cannot be read"
        raise _unreachable(cluster, f"the files of cluster.ca, cluster.cert and cluster.key {what}") from exc
    except OSError as exc:
        raise _unreachable(cluster, f"a file of cluster.ca, cluster.cert or cluster.key: {exc.strerror}") from exc
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.recv(1)  # the scheduler speaks first, or refuses our certificate
    except ssl.SSLCertVerificationError as exc:
        why = f"its certificate is not one of the authority in cluster.ca, or not valid ({exc.verify_message})"
        raise _unreachable(cluster, why) from exc
    except ssl.SSLError as exc:
        why = f"it does not accept our certificate ({(exc.reason or 'no reason').lower().replace('_', ' ')})"
        raise _unreachable(cluster, why) from exc
    except TimeoutError as exc:
        raise _unreachable(cluster, f"it did not answer within {CONNECT_S:g} s") from exc
    except OSError as exc:
        raise _unreachable(cluster, exc.strerror or type(exc).__name__) from exc


def others_may_read(key: str) -> bool:
    """True if users who are neither its owner nor in its group may read the private key; False if there is none."""
    place = Path(key)
    return place.exists() and bool(place.stat().st_mode & 0o007)


def _seen(address: str, one: dict[str, object], cluster: Cluster, mb_per_s: float | None) -> WorkerSeen:
    labels, metrics, said = one["resources"], one["metrics"], one.get("dicomnode") or {}
    assert isinstance(labels, dict)
    assert isinstance(metrics, dict)
    assert isinstance(said, dict)
    if one["status"] != "running":
        state = "paused"
    elif not offered_digests(labels, cluster.device):
        state = "other"
    else:
        state = "busy" if metrics.get("executing") else "idle"
    return WorkerSeen(
        address=address, state=state, device=str(said.get("device", "")),
        models=tuple(sorted(label.removeprefix(MODEL_LABEL) for label in labels if label.startswith(MODEL_LABEL))),
        version=str(said.get("version", "")), torch=str(said.get("torch", "")), python=str(said.get("python", "")),
        engine=str(said.get("engine", "")), mb_per_s=mb_per_s,
    )  # fmt: skip


def _echo(client: object, address: str) -> float | None:
    """Megabytes a second, there and back; None where the worker did not answer."""
    from distributed import Client

    assert isinstance(client, Client)
    begun = time.monotonic()
    try:
        sent = client.scatter(os.urandom(ECHO_BYTES), workers=[address], direct=True, hash=False, timeout=ANSWER_S)
        client.sync(client._gather, [sent], direct=True, callback_timeout=ANSWER_S)
    except (OSError, TimeoutError, ValueError):
        return None
    return 2 * ECHO_BYTES / 1e6 / (time.monotonic() - begun)


def _unreachable(cluster: Cluster, why: str) -> ClusterError:
    return ClusterError(
        f"The cluster {cluster.address} cannot be used: {why}.",
        hint='docs/operations.md, "Several machines", shows how its machines are set up.',
    )
