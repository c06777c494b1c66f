"""One family of errors, one class for each party that must act; anything else is a value or our own mistake.

An error is one sentence (what happened, to what, what the node did about it) and a hint (what to do).
Neither holds a patient value. ``cli/main.py`` alone turns them into text and exit codes.
"""

from __future__ import annotations

import errno
import os


class NodeError(Exception):
    """Base of the family: never raised itself, so that the class of each error says who must act."""

    code = "node"
    exit_code = 1

    def __init__(self, sentence: str, *, hint: str = "") -> None:
        assert type(self) is not NodeError, "raise the subclass that says who must act"
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint


class SettingsError(NodeError):
    """The configuration file or an environment variable is wrong: hospital IT acts."""

    code = "settings"
    exit_code = 2


def cannot_listen(key: str, address: str, error: OSError) -> SettingsError:
    """Return the error of a node that cannot listen at the address of this key."""
    # The error of a name without an address has a negative number and words of its own.
    why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return SettingsError(
        f"The node cannot listen on {address}: {why}.",
        hint=f"Another program listens there: stop it, or set `{key}`."
        if error.errno == errno.EADDRINUSE
        else f"Check `{key}`: the address must be this machine's, and ports under 1024 need a privilege.",
    )


class InputError(NodeError):
    """The input cannot be used: whoever handed it in acts."""

    code = "input"
    exit_code = 2


class ModelError(NodeError):
    """A model directory is missing, altered or does not fit: whoever installed it acts."""

    code = "model"
    exit_code = 2


class StorageError(NodeError):
    """A file could not be kept or read back: hospital IT looks at the disk."""

    code = "storage"
    exit_code = 3


class LedgerError(NodeError):
    """The ledger cannot be opened, or does not hold what it must: hospital IT acts."""

    code = "ledger"
    exit_code = 3


class ProcessError(NodeError):
    """A process beside this one ended or hangs: whoever runs the machine looks at its memory and its disks."""

    code = "process"
    exit_code = 3


class PeerError(NodeError):
    """Another DICOM application did not do its part: whoever runs that peer acts."""

    code = "peer"
    exit_code = 4


class ClusterError(NodeError):
    """The cluster that runs models for this node did not do its part: whoever runs that cluster acts."""

    code = "cluster"
    exit_code = 4

    def __init__(self, sentence: str, *, hint: str = "", begun: bool = False) -> None:
        super().__init__(sentence, hint=hint)
        self.begun = begun  # true: a worker of the cluster had begun to compute
