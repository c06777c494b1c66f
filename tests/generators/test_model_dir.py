"""The model directory: what it promises, and that nothing altered is ever loaded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicomnode.errors import ModelError
from dicomnode.generators import model_dir
from dicomnode.generators.card import Card, DataRow, MetricRow
from dicomnode.generators.cubic_dc import CubicDc
from dicomnode.generators.kinds import NETWORKS, Kind, ThinParameters
from dicomnode.generators.model_dir import load_generator, model_facts, read_card, seal, verify, write_card
from dicomnode.strict_toml import StrictModel
from tests.support.model_folders import random_srresnet, random_thin, write_paper, write_thin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed model."""
    return write_thin(tmp_path / "small")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships models from another folder."""
    monkeypatch.setattr(model_dir, "SHIPPED", tmp_path)
    return tmp_path


def test_the_digest_is_the_sha256_of_the_list_of_digests(folder: Path) -> None:
    assert verify(folder) == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()


def test_the_list_is_what_sha256sum_checks(folder: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert set(checked.stdout.split()) >= {"card.toml:", "weights.safetensors:", "metrics.json:"}


@pytest.mark.parametrize("name", ["card.toml", "weights.safetensors", "metrics.json"])
def test_one_changed_bit_is_found_and_both_digests_are_named(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    for use in (verify, load_generator, model_facts):
        with pytest.raises(ModelError) as caught:
            use(folder)
        assert all(part in caught.value.sentence for part in (str(path), expected, found))


@pytest.mark.parametrize("name", ["card.toml", "weights.safetensors", "metrics.json", "SHA256SUMS"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_generator(folder)


@pytest.mark.parametrize("name", ["weights.pt", ".hidden", "__pycache__/x.pyc"])
def test_a_file_that_is_not_listed_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(ModelError, match=f"{name.partition('/')[0]} is not listed"):
        load_generator(folder)


@pytest.mark.parametrize("name", ["card.toml", "weights.safetensors", "metrics.json"])
def test_a_list_without_one_of_the_three_files_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if not line.endswith(f"  {name}\n")))
    with pytest.raises(ModelError, match=f"does not list {name}"):
        verify(folder)


@pytest.mark.parametrize(
    "line",
    ["", "no digest", f"{'0' * 64} one-space", f"{'0' * 63}  short", f"{'G' * 64}  not-hex", f"{'0' * 64}  ../outside",
     f"{'0' * 64}  a/b", f"{'0' * 64}  ", f"{'0' * 64}  card.toml", f"{'0' * 64}  SHA256SUMS", f"{'0' * 64}  .."],
)  # fmt: skip
def test_a_line_of_the_list_that_is_not_one_is_refused_by_its_number(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(line + "\n")
    with pytest.raises(ModelError, match="line 4"):
        verify(folder)


def test_a_link_out_of_the_folder_must_still_have_the_listed_digest(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("another metrics file")
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="not the file that was sealed"):
        verify(folder)


def test_what_is_no_folder_or_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ModelError, match="cannot be read"):
            verify(path)


def test_a_card_written_is_the_card_read(tmp_path: Path) -> None:
    card = Card(
        name="thin",
        kind=Kind.THIN,
        ratios=(2, 6),
        consistency=False,
        licence="MIT",
        intended_use='Quotes "and" back\\slashes,\nlines, ratios × 2 – and 脳.',
        failure_modes=("first", "second"),
        data=(
            DataRow(volume="a", subject="s", split="train", licence="CC0-1.0"),
            DataRow(volume="b", subject="t", split="validation", licence="MIT"),
        ),
        metrics=(MetricRow(volume="b", measure="PSNR gain over cubic-dc, dB", value=1.75),),
        parameters=ThinParameters(window=5, channels=64, blocks=8),
    )
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card
    assert tomllib.loads((tmp_path / "card.toml").read_text())["parameters"]["channels"] == 64


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "small"', 'name = "Small one"', "name"),
        ('name = "small"', "name = 7", "name"),
        ('kind = "thin"', 'kind = "cubic-dc"', "kind"),
        ('kind = "thin"', "", "kind"),
        ("ratios = [2, 6]", "ratios = [2, 7]", "ratios.1"),
        ("ratios = [2, 6]", "ratios = [6, 2]", "lowest, highest"),
        ("ratios = [2, 6]", "ratios = [2]", "ratios"),
        ("consistency = true", 'consistency = "yes"', "consistency"),
        ("consistency = true", "consistency = true\nconsistancy = true", "consistancy"),
        ("window = 3", "window = 4", "window must be odd"),
        ("window = 3", "window = 3.0", "parameters.window"),
        ("channels = 8", "channels = 100000", "parameters.channels"),
        ("blocks = 2", "blocks = 2\nlayers = 2", "parameters.layers"),
        ('split = "train"', 'split = "test"', "data.0.split"),
        ('licence = "CC0-1.0"\n', "", "licence"),
        ("ratios = [2, 6]", "ratios = [2, 6", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_card_is_named_by_its_key(folder: Path, old: str, new: str, named: str) -> None:
    text = (folder / "card.toml").read_text()
    assert old in text
    (folder / "card.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ModelError) as caught:
        read_card(folder)
    assert named in caught.value.sentence
    assert str(folder / "card.toml") in caught.value.sentence


def test_a_sharpness_and_a_second_set_of_weights_belong_together(tmp_path: Path) -> None:
    together = r"sharpness and adversarial\.safetensors belong together"
    with pytest.raises(ModelError, match=together):
        write_thin(tmp_path / "set", adversarial=random_thin(seed=1))
    with pytest.raises(ModelError, match=together):
        write_thin(tmp_path / "card", sharpness=0.5)
    whole = write_thin(tmp_path / "whole", adversarial=random_thin(seed=1), sharpness=0.5)
    assert model_dir.model_facts(whole).sharpness == 0.5
    assert model_dir.model_facts(write_thin(tmp_path / "one")).sharpness is None


def test_one_person_cannot_stand_in_two_splits() -> None:
    """Mutual exclusion by subject, not by file: two volumes of one head are one head."""
    rows = [DataRow(volume=split, subject="one", split=split, licence="MIT") for split in ("train", "validation")]
    with pytest.raises(ValidationError, match="one stands in two splits"):
        Card(
            name="thin",
            kind=Kind.THIN,
            ratios=(2, 6),
            licence="MIT",
            intended_use="x",
            failure_modes=("x",),
            data=tuple(rows),
            parameters=ThinParameters(window=5, channels=8, blocks=1),
        )


def test_cubic_dc_is_always_there_and_needs_no_folder(shipped: Path) -> None:
    assert not any(shipped.iterdir())
    assert model_dir.model_names() == ("cubic-dc",)
    facts = model_facts("cubic-dc")
    assert (facts.kind, facts.ratios, facts.default) == (Kind.CUBIC_DC, (2, 6), True)
    assert load_generator("cubic-dc") == CubicDc()
    assert facts.digest == CubicDc().digest


def test_thin_is_the_default_once_it_ships(shipped: Path) -> None:
    write_thin(shipped / "other", name="other")
    assert model_dir.default_model() == "cubic-dc"
    folder = write_thin(shipped / "thin", name="thin", ratios=(3, 5))
    assert model_dir.default_model() == "thin"
    assert model_dir.model_names() == ("cubic-dc", "other", "thin")
    facts = model_facts("thin")
    assert (facts.name, facts.kind, facts.ratios, facts.default) == ("thin", Kind.THIN, (3, 5), True)
    assert facts.digest == verify(folder) == load_generator("thin").digest
    assert not model_facts("cubic-dc").default


def test_a_folder_beside_the_models_that_holds_no_card_is_no_model(shipped: Path) -> None:
    (shipped / "README.md").write_text("about the weights")
    (shipped / "empty").mkdir()
    assert model_dir.model_names() == ("cubic-dc",)


def test_a_shipped_model_under_another_name_is_refused(shipped: Path) -> None:
    write_thin(shipped / "thin", name="other")
    with pytest.raises(ModelError, match="is that of other"):
        model_facts("thin")


@pytest.mark.parametrize("use", [model_facts, load_generator])
def test_an_unknown_name_is_answered_with_those_that_there_are(use: Callable[[str], object], shipped: Path) -> None:
    write_thin(shipped / "thin", name="thin")
    with pytest.raises(ModelError, match="no model named thick") as caught:
        use("thick")
    assert "cubic-dc, thin" in caught.value.hint


def test_a_path_may_be_given_as_text(folder: Path) -> None:
    assert model_facts(str(folder)) == model_facts(folder)
    assert load_generator(str(folder)).digest == verify(folder)


def test_the_digest_changes_with_any_file_and_with_nothing_else(tmp_path: Path) -> None:
    net = random_srresnet(outputs=1)
    first = verify(write_paper(tmp_path / "a", Kind.SLICE, net=net))
    assert verify(write_paper(tmp_path / "b", Kind.SLICE, net=net)) == first
    (tmp_path / "b" / "metrics.json").write_text('{"rows": []}\n')
    assert seal(tmp_path / "b") != first


def test_a_pinned_model_is_found_by_its_digest_whether_it_was_shipped_or_imported(
    shipped: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    there = verify(write_thin(shipped / "thin", net=random_thin(blocks=1), name="thin"))
    made = write_thin(tmp_path / "made" / "thin", net=random_thin(blocks=2), name="thin")
    imported = model_dir.copy_model(made, model_dir.imported_folder(data, "thin", verify(made)))
    for digest in (there, imported):
        facts, place = model_dir.pinned_model("thin", digest, data)
        assert (facts.digest, facts.pinned) == (digest, f"thin@{digest}")
        assert load_generator(place).digest == digest
    with pytest.raises(ModelError, match=f"expected digest {imported}, found {there}"):
        model_dir.pinned_model("thin", imported, None)


def test_a_folder_of_the_right_place_with_another_model_in_it_is_not_taken_for_the_pinned_one(tmp_path: Path) -> None:
    made = write_thin(tmp_path / "made", name="knee")
    wanted = verify(made)[:12] + "0" * 52
    model_dir.copy_model(made, model_dir.imported_folder(tmp_path / "data", "knee", wanted))
    with pytest.raises(ModelError, match=f"expected digest {wanted}, found {verify(made)}"):
        model_dir.pinned_model("knee", wanted, tmp_path / "data")


def test_what_ships_is_whole() -> None:
    for name, folder in model_dir.shipped_models().items():
        facts = model_facts(name)
        assert (facts.name, facts.digest) == (name, verify(folder))


def test_facts_cards_and_digests_are_read_and_copied_without_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dicomnode.generators import model_dir\n"
        "folder = Path(sys.argv[1])\n"
        "model_dir.read_card(folder), model_dir.verify(folder), model_dir.model_facts(folder)\n"
        "[model_dir.model_facts(name) for name in model_dir.model_names()]\n"
        "model_dir.load_generator('cubic-dc')\n"
        "digest, data = model_dir.verify(folder), Path(sys.argv[2])\n"
        "model_dir.copy_model(folder, model_dir.imported_folder(data, 'small', digest))\n"
        "model_dir.pinned_model('small', digest, data)\n"
        "assert not {'torch', 'safetensors'} & sys.modules.keys()\n"
        "model_dir.load_generator(folder)\n"
        "assert 'torch' in sys.modules\n"
    )
    words = [sys.executable, "-c", code, str(folder), str(tmp_path / "data")]
    (tmp_path / "data").mkdir()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_key_of_a_card_and_every_kind_stand_in_the_models_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    tables: dict[str, list[type[StrictModel]]] = {
        "parameters": [row.parameters for row in NETWORKS.values()],
        "data": [DataRow],
        "metrics": [MetricRow],
    }
    assert [kind for kind in NETWORKS if f"`{kind}`" not in page] == []
    for key in Card.model_fields:
        if key in tables:
            assert f"`{key}." in page
            missing = [name for table in tables[key] for name in table.model_fields if f".{name}`" not in page]
            assert missing == []
        else:
            assert f"| `{key}` |" in page
