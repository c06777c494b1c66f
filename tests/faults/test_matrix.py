"""The table of faults: the page and the tests have the same rows, and no row is without a test that exists."""

from __future__ import annotations

from tests.faults.matrix import MATRIX, is_named, lines
from tests.faults.plant import CHECKOUT


def test_the_rows_are_those_of_the_page() -> None:
    page = (CHECKOUT / "docs" / "protocol.md").read_text("utf-8").partition("\n## Faults\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert rows[1:] == list(MATRIX)


def test_every_row_names_tests_that_exist() -> None:
    for fault, names in MATRIX.items():
        assert names, fault
        for name in names:
            file, _, test = name.partition("::")
            assert (CHECKOUT / file).exists(), name
            assert not test or f"def {test}(" in (CHECKOUT / file).read_text("utf-8"), name


def test_a_row_says_what_became_of_its_tests() -> None:
    outcomes = {
        "tests/receive/test_admission.py::test_x[a-b]": "failed",
        "tests/test_schedule.py::test_x": "passed",
        "tests/faults/test_restore_drill.py::test_x": "skipped",
    }
    told = {line.rpartition("  ")[0].rstrip(" 0123456789"): line.rpartition("  ")[2] for line in lines(outcomes)}
    assert told["wrong AE title, network or certificate of a sender"] == "1 failed"
    assert told["the wall clock is set"] == "passed"
    assert told["a newer ledger"] == told["data folder or ledger lost"].partition(",")[0] == "not covered"


def test_a_file_or_folder_stands_for_all_its_tests() -> None:
    assert is_named("tests/faults/cluster/test_door.py::test_x[1]", ["tests/faults/cluster"])
    assert not is_named("tests/faults/clusters.py::test_x", ["tests/faults/cluster"])
