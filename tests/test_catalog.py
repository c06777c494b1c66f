"""What a rule gets under a name, and how an operator changes that: on a real ledger and real model directories."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode import catalog, durable
from dicomnode.catalog import ModelCatalog, NotChosenYet, is_fast_default
from dicomnode.errors import InputError, ModelError, StorageError
from dicomnode.generators import model_dir
from dicomnode.generators.card import Card
from dicomnode.generators.kinds import NETWORKS, Kind
from dicomnode.generators.model_dir import ModelFacts
from dicomnode.generators.pace import LATE_S
from dicomnode.ledger.queries import open_reader
from dicomnode.ledger.store import Ledger, open_ledger
from dicomnode.ledger.views import ModelChoice, ModelRow
from tests.support.model_folders import DATA, random_thin, write_thin
from tests.support.node import CHECKOUT


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A data folder with its ledger, a package that ships what a test says, and an operator."""

    folder: Path
    ledger: Ledger

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def catalog(self) -> ModelCatalog:
        return ModelCatalog(self.ledger.models.active, self.data)

    def rows(self) -> list[ModelRow]:
        with closing(open_reader(f"sqlite:///{self.data}/ledger.sqlite")) as reader:
            return reader.imported_models()

    def made(self, name: str, *, blocks: int = 1, ratios: tuple[int, int] = (2, 6)) -> Path:
        """A model directory as a trainer hands it over; its digest depends on ``blocks``."""
        return write_thin(self.folder / f"{name}-{blocks}", net=random_thin(blocks=blocks), name=name, ratios=ratios)

    def take_in(self, folder: Path) -> str:
        """Import it; its digest."""
        imported, _ = catalog.import_model(folder, data=self.data, models=self.ledger.models, by="operator")
        return imported.digest

    def activate(self, wanted: str) -> bool:
        row = catalog.find_imported(self.rows(), wanted)
        return catalog.activate(row, data=self.data, models=self.ledger.models, by="operator")

    def roll_back(self, name: str, rules: Sequence[str] = ()) -> ModelFacts | None:
        return catalog.roll_back(name, rules=rules, data=self.data, models=self.ledger.models, by="operator")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "data").mkdir()
    (tmp_path / "shipped").mkdir()
    monkeypatch.setattr(model_dir, "SHIPPED", tmp_path / "shipped")
    with closing(open_ledger(f"sqlite:///{tmp_path}/data/ledger.sqlite")) as ledger:
        yield Bench(folder=tmp_path, ledger=ledger)


def _ship(bench: Bench, name: str) -> str:
    return model_dir.verify(write_thin(bench.folder / "shipped" / name, net=random_thin(blocks=2), name=name))


def test_what_is_imported_lies_under_its_name_and_digest_byte_for_byte_and_is_not_active(bench: Bench) -> None:
    source = bench.made("knee")
    found = bench.take_in(source)
    copy = bench.data / "models" / "knee" / found[:12]
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert [path.name for path in copy.parent.iterdir()] == [copy.name], "nothing temporary is left"
    with pytest.raises(ModelError, match="There is no model named knee"):
        bench.catalog().model_of("knee")


def test_a_rule_gets_the_active_model_of_its_name_with_the_ratios_of_its_card(bench: Bench) -> None:
    found = bench.take_in(bench.made("knee", ratios=(3, 4)))
    in_use = bench.catalog()
    assert bench.activate("knee")
    facts = in_use.model_of("knee")
    assert (facts.name, facts.kind, facts.digest, facts.ratios) == ("knee", Kind.THIN, found, (3, 4))
    assert in_use.verified("knee") == facts


def test_activations_are_seen_by_a_catalog_that_is_in_use_and_a_rollback_ends_at_what_came_with_the_node(
    bench: Bench,
) -> None:
    shipped = _ship(bench, "thin")
    in_use = bench.catalog()
    first, second = (bench.take_in(bench.made("thin", blocks=blocks)) for blocks in (1, 3))
    seen = [in_use.model_of(None).digest]
    for digest in (first, second):
        bench.activate(f"thin@{digest[:8]}")
        seen.append(in_use.model_of(None).digest)
    for _ in range(2):
        assert bench.roll_back("thin", ["knees"])
        seen.append(in_use.model_of("thin").digest)
    assert seen == [shipped, first, second, first, shipped]


def test_an_imported_thin_is_the_default_where_none_came_with_the_node(bench: Bench) -> None:
    in_use = bench.catalog()
    assert in_use.model_of(None).name == in_use.default == "cubic-dc"
    bench.take_in(bench.made("thin"))
    bench.activate("thin")
    assert (in_use.model_of(None).name, in_use.model_of(None).default) == ("thin", True)
    assert not in_use.model_of("cubic-dc").default


def test_importing_it_again_is_harmless_and_says_so(bench: Bench) -> None:
    source = bench.made("knee")
    bench.take_in(source)
    bench.activate("knee")
    _, is_new = catalog.import_model(source, data=bench.data, models=bench.ledger.models, by="operator")
    assert not is_new
    assert [row.state for row in bench.rows()] == ["active"]


@pytest.mark.parametrize("harm", ["altered", "lost", "not whole", "killed while it was copied"])
def test_importing_it_again_puts_right_what_was_altered_or_lost(bench: Bench, harm: str) -> None:
    source = bench.made("knee")
    digest = bench.take_in(source)
    copy = model_dir.imported_folder(bench.data, "knee", digest)
    if harm == "altered":
        (copy / "metrics.json").write_text("[]")
    elif harm == "lost":
        shutil.rmtree(copy)
    elif harm == "not whole":
        (copy / "weights.safetensors").unlink()
    else:
        (copy / "weights.safetensors").unlink()
        copy.rename(copy.with_name(f"{copy.name}.tmp"))
    assert bench.take_in(source) == digest
    assert model_dir.verify(copy) == digest
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("where", ["durable.renamed:2", "ledger.import_model_written"])
def test_an_import_that_is_killed_leaves_nothing_that_a_rule_could_get_and_is_done_again(
    bench: Bench, where: str
) -> None:
    """In the middle of the copy, and with the copy in its place but its row not committed."""
    source = bench.made("knee")
    config = bench.folder / "node.toml"
    config.write_text(f'[node]\ndata = "{bench.data}"\n')
    words = [sys.executable, "-m", "tests.support.checkpoints", "--kill", where, "--"]
    words += ["model", "import", str(source), "--config", str(config)]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert bench.rows() == []
    digest = bench.take_in(source)
    assert model_dir.verify(model_dir.imported_folder(bench.data, "knee", digest)) == digest
    assert len(list((bench.data / "models" / "knee").iterdir())) == 1
    assert bench.activate("knee")


@pytest.mark.parametrize("name", ["card.toml", "weights.safetensors", "metrics.json"])
def test_an_altered_directory_is_not_imported_and_leaves_nothing(bench: Bench, name: str) -> None:
    source = bench.made("knee")
    content = bytearray((source / name).read_bytes())
    content[-1] ^= 1
    (source / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} is not the file that was sealed"):
        bench.take_in(source)
    assert bench.rows() == []
    assert not (bench.data / "models").exists()


def test_weights_of_another_network_than_the_cards_are_not_imported(bench: Bench) -> None:
    source = bench.made("knee")
    card = source / "card.toml"
    card.write_text(card.read_text().replace("channels = 8", "channels = 16"))
    model_dir.seal(source)
    with pytest.raises(ModelError, match="not those of the network that its card describes"):
        bench.take_in(source)
    assert bench.rows() == []


def test_the_name_of_the_method_without_weights_is_not_given_away(bench: Bench) -> None:
    with pytest.raises(ModelError, match="cubic-dc is taken"):
        bench.take_in(bench.made("cubic-dc"))
    assert bench.rows() == []


@pytest.mark.parametrize("kind", [Kind.SRCNN, Kind.VDSR])
def test_a_kind_that_is_there_to_be_measured_against_is_neither_imported_nor_given_to_a_rule(
    bench: Bench, kind: Kind
) -> None:
    folder = bench.folder / "shipped" / "rival"
    folder.mkdir()
    for name in ("weights.safetensors", "metrics.json"):
        (folder / name).write_text("{}")
    model_dir.write_card(
        folder,
        Card(
            name="rival",
            kind=kind,
            parameters=NETWORKS[kind].parameters.model_validate({}),
            ratios=(2, 6),
            licence="MIT",
            intended_use="x",
            failure_modes=("x",),
            data=DATA,
        ),
    )
    model_dir.seal(folder)
    with pytest.raises(ModelError, match="`dicomnode evaluate` only"):
        bench.take_in(folder)
    with pytest.raises(ModelError, match="`dicomnode evaluate` only"):
        bench.catalog().model_of("rival")
    assert bench.rows() == []
    assert [line.active for line in catalog.model_lines([])] == [True, False]


def test_a_disk_that_is_full_leaves_neither_row_nor_half_a_copy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    written = durable.write_file

    def full(path: Path, parts: Sequence[durable.Part]) -> int:
        if path.name == "weights.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, parts)

    source = bench.made("knee")
    monkeypatch.setattr(durable, "write_file", full)
    with pytest.raises(StorageError, match="No space left on device; nothing was imported"):
        bench.take_in(source)
    assert bench.rows() == []
    assert list((bench.data / "models" / "knee").iterdir()) == []


def test_a_model_whose_files_were_altered_since_is_not_activated_and_not_rolled_back_to(bench: Bench) -> None:
    digests = [bench.take_in(bench.made("knee", blocks=blocks)) for blocks in (1, 3)]
    bench.activate(f"knee@{digests[0]}")
    bench.activate(f"knee@{digests[1]}")
    (model_dir.imported_folder(bench.data, "knee", digests[0]) / "metrics.json").write_text("[]")
    with pytest.raises(ModelError, match=r"metrics\.json is not the file"):
        bench.activate(f"knee@{digests[0]}")
    with pytest.raises(ModelError, match=r"metrics\.json is not the file"):
        bench.roll_back("knee")
    assert bench.catalog().model_of("knee").digest == digests[1]


def test_a_rollback_that_would_leave_a_rule_without_a_model_is_refused(bench: Bench) -> None:
    bench.take_in(bench.made("knee"))
    bench.activate("knee")
    with pytest.raises(InputError, match="Rule knees asks for model knee"):
        bench.roll_back("knee", ["knees"])
    assert bench.catalog().model_of("knee").name == "knee"
    assert bench.roll_back("knee") is None
    with pytest.raises(ModelError, match="There is no model named knee"):
        bench.catalog().model_of("knee")


def test_a_name_that_means_several_is_answered_with_all_of_them(bench: Bench) -> None:
    digests = [bench.take_in(bench.made("knee", blocks=blocks)) for blocks in (1, 3)]
    for wanted, how_many in (("knee", "2 models"), ("knee@", "2 models"), ("knee@0000000000000", "no model")):
        with pytest.raises(ModelError, match=f"{wanted} means {how_many}; of that name there are") as caught:
            bench.activate(wanted)
        with pytest.raises(ModelError, match=f"{wanted} means {how_many}"):
            catalog.find_model(catalog.model_lines(bench.rows()), wanted)
        assert all(f"knee@{digest[:12]}" in caught.value.sentence for digest in digests)
    with pytest.raises(ModelError, match="No model named spine was imported"):
        bench.activate("spine")


def test_the_list_shows_where_a_model_came_from_and_which_one_rules_get(bench: Bench) -> None:
    shipped = _ship(bench, "thin")
    first, second = (bench.take_in(bench.made("thin", blocks=blocks)) for blocks in (1, 3))
    bench.activate(f"thin@{first}")
    lines = catalog.model_lines(bench.rows())
    told = [(line.name, line.origin, line.state, line.active, line.default) for line in lines]
    assert told == [
        ("cubic-dc", "shipped", None, True, False),
        ("thin", "shipped", None, False, False),
        ("thin", "imported", "active", True, True),
        ("thin", "imported", "imported", False, False),
    ]
    assert catalog.find_model(lines, "thin").digest == first
    for digest in (shipped, second):
        assert catalog.find_model(lines, f"thin@{digest[:6]}").digest == digest


def test_an_active_model_that_is_gone_from_the_disk_is_known_but_not_verified(bench: Bench) -> None:
    """The verdict goes by the ledger; the job that it plans is held, with a sentence, and never done by another."""
    digest = bench.take_in(bench.made("knee"))
    bench.activate("knee")
    shutil.rmtree(bench.data / "models")
    assert bench.catalog().model_of("knee").digest == digest
    with pytest.raises(ModelError, match=f"expected digest {digest}, found none"):
        bench.catalog().verified("knee")


def test_a_shipped_model_that_is_imported_as_well_stays_when_the_package_brings_a_newer_one(bench: Bench) -> None:
    shipped = _ship(bench, "thin")
    bench.take_in(bench.folder / "shipped" / "thin")
    assert catalog.find_model(catalog.model_lines(bench.rows()), f"thin@{shipped[:8]}").digest == shipped
    shutil.rmtree(bench.folder / "shipped" / "thin")
    facts, place = model_dir.pinned_model("thin", shipped, bench.data)
    assert facts.digest == shipped
    assert model_dir.load_generator(place).digest == shipped


def test_where_thin_is_late_rules_that_name_no_model_get_the_fast_one_and_others_what_they_name(bench: Bench) -> None:
    quality, fast = _ship(bench, "thin"), _ship(bench, "thin-fast")
    in_use = bench.catalog()
    timed = in_use.begin_choice()
    assert timed is not None
    assert timed.digest == quality
    with pytest.raises(NotChosenYet):
        in_use.model_of(None)
    assert in_use.model_of("thin").digest == quality, "a rule that names a model waits for nothing"
    choice = in_use.choose(LATE_S + 120)
    assert choice.is_fast
    assert choice.sentence == (
        "Model thin would take 4.0 min for a series of 30 slices of 512 × 512 at ratio 5 on this machine, longer than "
        "2.0 min; rules that name no model get thin-fast."
    )
    got = in_use.model_of(None)
    assert (got.name, got.digest, got.default, got.why) == ("thin-fast", fast, True, choice.sentence)
    named = in_use.model_of("thin")
    assert (named.digest, named.default, named.why) == (quality, False, "")


@pytest.mark.parametrize("reference_s", [LATE_S, 0.5, None])
def test_where_thin_is_in_time_or_cannot_be_timed_it_stays(bench: Bench, reference_s: float | None) -> None:
    _ship(bench, "thin")
    bench.activate(f"thin-fast@{bench.take_in(bench.made('thin-fast'))}")
    in_use = bench.catalog()
    assert in_use.begin_choice() is not None
    choice = in_use.choose(reference_s)
    assert not choice.is_fast
    assert choice.sentence.endswith("rules that name no model get it.")
    assert (in_use.model_of(None).name, in_use.model_of(None).why) == ("thin", "")


@pytest.mark.parametrize("shipped", [("thin",), ("thin-fast",), ()])
def test_without_one_of_the_two_there_is_nothing_to_choose(bench: Bench, shipped: Sequence[str]) -> None:
    for name in shipped:
        _ship(bench, name)
    in_use = bench.catalog()
    assert in_use.begin_choice() is None
    assert in_use.model_of(None).name == ("thin" if shipped == ("thin",) else "cubic-dc")


def test_a_fast_model_whose_files_were_altered_is_found_before_it_may_be_chosen(bench: Bench) -> None:
    _ship(bench, "thin")
    _ship(bench, "thin-fast")
    (bench.folder / "shipped" / "thin-fast" / "metrics.json").write_text("[]")
    with pytest.raises(ModelError, match=r"metrics\.json is not the file that was sealed"):
        bench.catalog().begin_choice()


def test_the_settings_say_which_one_is_the_default_and_else_the_last_start(bench: Bench) -> None:
    _ship(bench, "thin")
    _ship(bench, "thin-fast")
    slow = ModelChoice(is_fast=True, sentence="x")
    assert [is_fast_default(speed, slow) for speed in ("auto", "quality", "fast")] == [True, False, True]
    assert [is_fast_default(speed, None) for speed in ("auto", "quality", "fast")] == [False, False, True]
    (default,) = [line.name for line in catalog.model_lines([], is_fast=True) if line.default]
    assert default == ModelCatalog(dict, bench.data, is_fast=True).default == "thin-fast"
