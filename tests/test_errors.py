"""The family of errors says who must act."""

from __future__ import annotations

import pytest

from dicomnode import errors


def test_each_error_has_the_exit_code_of_the_command_table() -> None:
    family = [error for error in vars(errors).values() if isinstance(error, type) and error is not errors.NodeError]
    codes = {error.__name__: error.exit_code for error in family if issubclass(error, errors.NodeError)}
    assert codes == {
        "SettingsError": 2, "InputError": 2, "ModelError": 2, "StorageError": 3, "LedgerError": 3, "ProcessError": 3,
        "PeerError": 4, "ClusterError": 4,
    }  # fmt: skip


def test_the_base_is_never_raised_itself() -> None:
    with pytest.raises(AssertionError, match="who must act"):
        errors.NodeError("something")


def test_an_error_shows_its_sentence_and_keeps_its_hint_apart() -> None:
    error = errors.StorageError("The disk is full.", hint="Free some space.")
    assert (str(error), error.hint) == ("The disk is full.", "Free some space.")
