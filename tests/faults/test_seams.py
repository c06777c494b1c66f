"""Every seam of the node is one at which ``bench/kill.py`` kills, or one that says why it does not and who uses it."""

from __future__ import annotations

from tests.support.node import CHECKOUT
from tests.support.seams import ELSEWHERE, KILLED, of_the_node

OF_TRANSACTIONS = {"ledger.{}_written", "ledger.{}_committed"}  # of each; the bench kills between them


def test_no_seam_is_forgotten_and_none_is_listed_that_is_gone() -> None:
    elsewhere = [name for seams in ELSEWHERE.values() for name in seams]
    listed = [seam.name for seam in KILLED] + elsewhere + sorted(OF_TRANSACTIONS)
    assert sorted(listed) == sorted(set(listed))
    assert {name for _, name in of_the_node()} == set(listed)


def test_what_the_bench_leaves_out_is_used_by_the_test_that_it_names() -> None:
    for seams in ELSEWHERE.values():
        for name, file in seams.items():
            assert f'"{name}' in (CHECKOUT / file).read_text("utf-8"), (name, file)
