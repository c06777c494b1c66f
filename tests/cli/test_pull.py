"""``pull`` and ``train --from`` from a PACS that is really there, into the archive of a node that listens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.cli.conftest import Run
from tests.pull.test_fetch import PULL, Door, filled
from tests.support.mr_series import write_mr_series
from tests.support.orthanc import WITH_DICOMWEB, Orthanc, needs_dicomweb, needs_orthanc, orthanc
from tests.support.shared import DATA, needs_shared

pytestmark = [needs_orthanc, needs_dicomweb]

_BY_ORDER = ("label", "subject", "split")  # numbered as the folders are met


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.delenv("DICOMNODE_NODE__DATA")
    with closing(Door(tmp_path / "node")) as opened:
        yield opened


@pytest.fixture
def pacs(door: Door, tmp_path: Path) -> Iterator[Orthanc]:
    modalities = {"node": [PULL, "127.0.0.1", door.port], "us": ["DICOMNODE", "127.0.0.1", 104]}
    with orthanc(tmp_path / "orthanc", settings={**WITH_DICOMWEB, "DicomModalities": modalities}) as running:
        yield running


@pytest.fixture
def config(door: Door, pacs: Orthanc, tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nlisten = "127.0.0.1:{door.port}"\ndata = "{door.archive.data}"\npull_ae_title = "{PULL}"\n'
        f'[[peer]]\nname = "pacs"\nae_title = "ORTHANC"\naddress = "127.0.0.1:{pacs.dicom_port}"\n'
        f'[[peer]]\nname = "web"\nurl = "{pacs.dicomweb_url}"\n'
    )
    return file


def test_a_study_is_counted_then_pulled_by_either_way(run: Run, config: Path, door: Door, pacs: Orthanc) -> None:
    files = write_mr_series(door.archive.data.parent / "in", slices=5)
    filled(pacs, files)
    study = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    looked = run("pull", "pacs", "--study", study, "--dry-run", "--config", config, "--json")
    assert (looked.code, json.loads(looked.out)[0]["here"]) == (0, 0)
    assert door.datasets() == set()
    pulled = run("pull", "pacs", "--study", study, "--process", "--config", config, "--json")
    assert (pulled.code, pulled.err) == (0, "")
    (row,) = json.loads(pulled.out)
    assert (row["wanted"], row["before"], row["here"], row["sentence"]) == (5, 0, 5, "")
    assert door.settled() == {row["series"]: False}, "the rules take it"
    again = run("pull", "web", "--since", 36_500, "--match", "SeriesDescription=*", "--config", config, "--json")
    assert (again.code, json.loads(again.out)[0]["before"]) == (0, 5)


def test_train_pulls_what_it_looks_at(run: Run, config: Path, door: Door, pacs: Orthanc) -> None:
    files = write_mr_series(door.archive.data.parent / "in", slices=6)
    filled(pacs, files)
    study = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    ran = run("train", "--studies", study, "--from", "pacs", "--dry-run", "--config", config, "--json")
    assert len(door.datasets()) == 6
    assert ran.code in (0, 2), ran.err
    if ran.code == 0:
        assert [one["slices"] for one in json.loads(ran.out)["series"]] == [6]


@needs_shared
def test_a_dry_run_from_a_pacs_tells_of_the_archived_studies_what_their_folders_tell(
    run: Run, config: Path, door: Door, pacs: Orthanc
) -> None:
    folders = [DATA / "prostatex", DATA / "mimbcd_uta11"]
    files = sorted(file for folder in folders for file in folder.rglob("*.dcm"))
    headers = [dcmread(file, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]) for file in files]
    filled(pacs, files)
    studies = sorted({str(header.StudyInstanceUID) for header in headers})
    named = [word for study in studies for word in ("--studies", study)]
    ran = run("train", *named, "--from", "pacs", "--dry-run", "--config", config, "--json")
    assert ran.code == 0, ran.err
    assert len(door.datasets()) == len(files)
    told = json.loads(ran.out)
    slices = Counter(str(header.SeriesInstanceUID) for header in headers)
    assert sorted(one["slices"] for one in told["series"]) == sorted(slices.values())
    of_folders = [word for folder in folders for word in ("--studies", folder)]
    alike = run("train", *of_folders, "--dry-run", "--config", config, "--json")
    assert alike.code == 0, alike.err
    assert told_of(told) == told_of(json.loads(alike.out))
    assert {one["role"] for one in told["series"]} == {"thick", "thin"}


def told_of(table: dict[str, list[dict[str, object]]]) -> list[list[tuple[str, str]]]:
    """The lines of a dry run for each series, in an order that does not depend on the order of discovery."""
    people = Counter(str(one["subject"]) for one in table["series"])
    told = [[(key, str(value)) for key, value in one.items() if key not in _BY_ORDER] for one in table["series"]]
    return [*sorted(told), [("series of a subject", str(count)) for count in sorted(people.values())]]


def test_what_is_missing_is_said_before_anything_is_asked(run: Run, config: Path) -> None:
    ran = run("pull", "pacs", "--config", config)
    assert (ran.code, "Which studies?" in ran.err) == (2, True)
    text = config.read_text()
    config.write_text(text.replace(f'pull_ae_title = "{PULL}"\n', ""))
    ran = run("pull", "pacs", "--study", "1.2", "--config", config)
    assert (ran.code, "node.pull_ae_title" in ran.err) == (2, True)
    config.write_text(text.replace(f'"{PULL}"', '"OTHER"'))
    ran = run("pull", "pacs", "--study", "1.2", "--config", config)
    assert (ran.code, "does not answer at" in ran.err) == (4, True)
