"""The terms between a node and the workers of a cluster: its address, the labels of a worker, the form of a call.

A call is a short text and one array (the thick stack), and its answer is a short text and two arrays (the thin stack,
and what its averages lacked). Both hold numbers and the names of models. There is no patient, no UID, no file and no
place in space in them.

A worker bears labels, and a call runs only where all of its labels are: the *contract* (versions of whatever decides
the bits of a result), the kind of device, and the digest of the model. So a worker of another version, or with other
weights, gets no call.

This module loads neither numpy nor the engine of the cluster.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import version

from dicomnode import __version__
from dicomnode.ids import digest

CONTRACT_DIGITS = 12
CONTRACT_LABEL, DEVICE_LABEL, MODEL_LABEL = "dicomnode/", "device/", "model/"
KINDS = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster, as a node or a worker reaches it."""

    address: str  # of the scheduler: tls://host:port
    ca: str  # PEM file of the authority that signs for this cluster, and for nothing else
    cert: str  # PEM file of this machine's certificate
    key: str  # PEM file of its private key
    device: str = "auto"  # node: the kind of device that results must come from; auto: either


class Outcome(StrEnum):
    """The ways in which a call can end on the worker."""

    MADE = "made"
    REFUSED = "refused"  # the model cannot do this; another worker could not either
    FAILED = "failed"  # the process that computed ended, or raised: it may have been the call
    UNFIT = "unfit"  # the worker could not begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to a generator; the thick stack goes beside it."""

    key: str  # of the attempt, and the number of the call within it
    model: str
    model_digest: str
    sharpness: float | None
    ratio: int
    slice_spacing_mm: float
    slice_thickness_mm: float
    sha256: str  # of the thick stack

    def encode(self) -> str:
        """The call as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str | bytes) -> Call:
        """The call again."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply to a call; a thin stack, and what its averages lacked, go beside it where it was made."""

    key: str  # of the call
    outcome: Outcome
    sentence: str = ""  # where it was not made
    network_share: float | None = None
    thin_shape: tuple[int, ...] = ()
    thin_sha256: str = ""
    missing_shape: tuple[int, ...] | None = None  # None: nothing was put back
    missing_sha256: str = ""
    worker: str = ""  # host:port of the one that ran it
    seconds: float = 0.0  # that it took there
    memory_mb: float = 0.0  # the most that its process had meanwhile

    def encode(self) -> str:
        """The reply as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str | bytes) -> Reply:
        """The reply again."""
        fields = json.loads(text)
        fields["outcome"] = Outcome(fields["outcome"])
        fields["thin_shape"] = tuple(fields["thin_shape"])
        if fields["missing_shape"] is not None:
            fields["missing_shape"] = tuple(fields["missing_shape"])
        return cls(**fields)


@cache
def contract() -> str:
    """Names the versions that decide the bits of a result; node and worker must have the same."""
    # The local part of torch's version ("+cpu") names a build; the label of the device tells those apart.
    torch = version("torch").partition("+")[0]
    return digest(f"dicomnode {__version__}, torch {torch}, numpy {version('numpy')}".encode())[:CONTRACT_DIGITS]


def worker_labels(kind: str, digests: tuple[str, ...]) -> dict[str, float]:
    """The labels that a worker offers, each for one call at a time."""
    assert kind in KINDS
    labels = (CONTRACT_LABEL + contract(), DEVICE_LABEL + kind, *(MODEL_LABEL + one for one in digests))
    return dict.fromkeys(labels, 1.0)


def call_labels(device: str, model_digest: str) -> dict[str, float]:
    """The labels that a call of a node needs."""
    labels = [CONTRACT_LABEL + contract(), MODEL_LABEL + model_digest]
    if (kind := wanted_kind(device)) is not None:
        labels.append(DEVICE_LABEL + kind)
    return dict.fromkeys(labels, 1.0)


def wanted_kind(device: str) -> str | None:
    """The kind of device that ``work.device`` of a node asks for; None: any.

    >>> wanted_kind("auto"), wanted_kind("cuda:1")
    (None, 'cuda')
    """
    return None if device == "auto" else device.partition(":")[0]


def offered_digests(labels: Collection[str], device: str) -> frozenset[str]:
    """The models that a worker with these labels runs for a node that asks for this device."""
    kind = wanted_kind(device)
    if CONTRACT_LABEL + contract() not in labels or (kind is not None and DEVICE_LABEL + kind not in labels):
        return frozenset()
    return frozenset(label.removeprefix(MODEL_LABEL) for label in labels if label.startswith(MODEL_LABEL))
