"""Our own ids, and the UIDs of what we derive."""

from __future__ import annotations

import uuid

import pydicom.uid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode import ids


@given(st.text(alphabet="0123456789.", max_size=70))
def test_a_uid_is_what_pydicom_calls_a_valid_uid(text: str) -> None:
    # pydicom takes a single component ("1"); every UID that the standard hands out has at least two.
    assert ids.is_uid(text) == (pydicom.uid.UID(text, validation_mode=0).is_valid and "." in text)


@pytest.mark.parametrize("text", ["../../../etc/x", "1.2\n", "1.2 ", "", "x" * 64, "1." + "2" * 64])
def test_what_is_no_uid_is_told_apart(text: str) -> None:
    assert not ids.is_uid(text)


@given(st.uuids(), st.text())
def test_a_derived_uid_is_valid_and_carries_a_real_uuid(namespace: uuid.UUID, name: str) -> None:
    uid = ids.derived_uid(namespace, name)
    assert pydicom.uid.UID(uid).is_valid
    assert uuid.UUID(int=int(uid.removeprefix("2.25."))) == uuid.uuid5(namespace, name)


def test_an_instance_id_fits_the_ledgers_signed_integer_and_a_file_name() -> None:
    for _ in range(1000):
        instance_id = ids.new_instance_id()
        assert 0 <= instance_id < 2**63
        assert len(ids.file_stem(instance_id)) == 16
