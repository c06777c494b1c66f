"""Imported models: one of a name is active, and a rollback goes back the way that the activations came."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.errors import InputError
from dicomnode.ids import digest
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import open_ledger
from dicomnode.ledger.values import ImportedModel
from tests.ledger.scene import Scene, plan_for
from tests.support.thorough import times

MEMORY = Path("/dev/shm")  # noqa: S108 - hundreds of flushes: on a disk they would take all the time
NAMES = ("thin", "knee")
VERSIONS = ("first", "second", "third")


def _active(scene: Scene) -> dict[str, str]:
    return {name: model.digest for name, model in scene.ledger.models.active().items()}


def test_an_imported_model_is_not_active_before_somebody_says_so(scene: Scene) -> None:
    number = scene.imported("thin", "weights")
    assert _active(scene) == {}
    assert scene.ledger.models.activate(number, "operator:anna")
    assert _active(scene) == {"thin": digest(b"weights")}


def test_importing_the_same_digest_twice_makes_no_second_row_and_takes_nothing_away(scene: Scene) -> None:
    number = scene.imported()
    scene.ledger.models.activate(number, "operator")
    again = ImportedModel(name="thin", digest=digest(b"weights"), kind="thin", ratios=(2, 6))
    assert scene.ledger.models.take_in(again, "operator") == (number, False)
    assert scene.states("model") == ["active"]


def test_activating_the_active_one_changes_nothing(scene: Scene) -> None:
    number = scene.imported()
    assert scene.ledger.models.activate(number, "operator")
    assert not scene.ledger.models.activate(number, "operator")
    assert scene.kinds("model", number) == ["import", "activate"]


def test_every_change_says_who_made_it(scene: Scene) -> None:
    first, second = scene.imported("thin", "a"), scene.imported("thin", "b")
    scene.ledger.models.activate(first, "operator:anna")
    scene.ledger.models.activate(second, "operator:ben")
    scene.ledger.models.roll_back("thin", "operator:eva", to=first)
    with closing(open_reader(f"sqlite:///{scene.path}")) as reader:
        history = {number: [(line.kind, line.by) for line in reader.model_history(number)] for number in (1, 2)}
    assert history == {
        first: [
            ("import", "operator"),
            ("activate", "operator:anna"),
            ("supersede", "operator:ben"),
            ("restore", "operator:eva"),
        ],
        second: [("import", "operator"), ("activate", "operator:ben"), ("withdraw", "operator:eva")],
    }


def test_a_rollback_of_what_is_not_active_is_refused(scene: Scene) -> None:
    scene.imported()
    with pytest.raises(InputError, match="No imported model named thin is active"):
        scene.ledger.models.roll_back("thin", "operator", to=None)


def test_a_rollback_to_what_no_longer_stands_there_is_refused(scene: Scene) -> None:
    """Another operator activated a third one between the look and the act."""
    first, second, third = (scene.imported("thin", content) for content in "abc")
    for number in (first, second):
        scene.ledger.models.activate(number, "operator")
    seen = scene.ledger.models.before_active("thin")
    assert seen is not None
    scene.ledger.models.activate(third, "another")
    with pytest.raises(InputError, match="changed meanwhile"):
        scene.ledger.models.roll_back("thin", "operator", to=seen.id)
    assert _active(scene) == {"thin": digest(b"c")}


def test_a_job_keeps_the_digest_that_it_was_planned_with(scene: Scene) -> None:
    series = scene.settled()
    assert scene.ledger.settling.plan(series, 1, plan_for(model="thin", digest_of_model=digest(b"a")))
    scene.ledger.models.activate(scene.imported("thin", "b"), "operator")
    assert scene.claim_job().planned.parameters.model_digest == digest(b"a")


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("activate"), st.sampled_from(NAMES), st.sampled_from(VERSIONS)),
        st.tuples(st.just("roll back"), st.sampled_from(NAMES), st.just("")),
    ),
    max_size=12,
)


@pytest.mark.faults
@pytest.mark.timeout(times(900, 1800))
@settings(max_examples=times(20, 1_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(acts=ACTS)
def test_activations_and_rollbacks_are_a_pile_for_each_name(acts: list[tuple[str, str, str]]) -> None:
    """Against a list of each name: activating puts a model on top, a rollback takes the top away."""
    piles: defaultdict[str, list[str]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = open_ledger(f"sqlite:///{path}")
        numbers = {}
        for name in NAMES:
            for version in VERSIONS:
                content = f"{name} {version}".encode()
                model = ImportedModel(name=name, digest=digest(content), kind="thin", ratios=(2, 6))
                numbers[name, version], is_new = ledger.models.take_in(model, "operator")
                assert is_new
        for act, name, version in acts:
            pile = piles[name]
            if act == "activate":
                assert ledger.models.activate(numbers[name, version], "operator") == (pile[-1:] != [version])
                piles[name] = [one for one in pile if one != version] + [version]
            elif pile:
                behind = ledger.models.before_active(name)
                ledger.models.roll_back(name, "operator", to=behind.id if behind else None)
                pile.pop()
            else:
                with pytest.raises(InputError):
                    ledger.models.roll_back(name, "operator", to=None)
            found = {name: model.id for name, model in ledger.models.active().items()}
            assert found == {name: numbers[name, pile[-1]] for name, pile in piles.items() if pile}
        ledger.close()
        with closing(sqlite3.connect(path)) as eye:
            rows = eye.execute("SELECT count(*), count(DISTINCT name) FROM model WHERE state = 'active'").fetchone()
        assert rows[0] == rows[1]
