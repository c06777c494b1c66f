"""The Device UID of a model in Contributing Equipment, as IHE AI Results asks for it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

from dicomnode.ids import is_uid
from tests.support.derived import PLAN, SMALL, made_of


def test_each_model_is_a_device_of_its_own_on_every_node(tmp_path: Path) -> None:
    def device(node: int, digest: str) -> str:
        plan = replace(PLAN, namespace=uuid.UUID(int=node), parameters=replace(PLAN.parameters, model_digest=digest))
        folder = tmp_path / f"{node} {digest[:2]}"
        folder.mkdir()
        return str(made_of(folder, SMALL.datasets(), plan=plan).datasets[0].ContributingEquipmentSequence[0].DeviceUID)

    first = device(1, "ab" * 32)
    assert is_uid(first)
    assert device(2, "ab" * 32) == first
    assert device(1, "cd" * 32) != first
