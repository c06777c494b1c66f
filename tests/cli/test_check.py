"""``check``: its code says whether the node would do its work."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_a_node_that_would_start_is_0_and_nothing_is_made(run: Run, tmp_path: Path) -> None:
    ran = run("check", "--json")
    assert ran.code == 0
    rows = json.loads(ran.out)
    assert {"what", "mark", "sentence", "hint"} == rows[0].keys()
    assert rows[0]["mark"] == "warn", "nothing is delivered yet, and it says so"
    assert "nothing is delivered" in rows[0]["sentence"]
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_a_line_with_a_remedy_and_code_2(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        '[[peer]]\nname = "pacs"\nae_title = "PACS"\naddress = "127.0.0.1:1"\n'
        '[[rule]]\nname = "all"\nmodel = "nosuch"\ndeliver_to = ["pacs"]\n'
    )
    ran = run("check", "--echo", "--config", config, "--json")
    assert ran.code == 2
    failed = {row["what"]: row["hint"] for row in json.loads(ran.out) if row["mark"] == "fail"}
    assert failed.keys() == {"model nosuch", "peer pacs"}
    assert all(failed.values())


def test_settings_with_mistakes_never_come_to_the_sheet(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[node]\nport = 104\n")
    ran = run("check", "--config", config)
    assert ran.code == 2
    assert f"{config}: node.port: is not a known key" in ran.err
