"""The hand-off: a model directory that the node serves, whose card says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.errors import InputError
from dicomnode.generators import model_dir
from dicomnode.generators.card import DataRow
from dicomnode.generators.kinds import Kind, SRCNNParameters
from dicomnode.imaging.profile import thin_grid
from tests.support.recipes import FIDELITY, SHARP, nifti_sources, plan_of, slice_recipe, thin_recipe
from trainer.data.sources import Split
from trainer.training import handoff
from trainer.training import plan as plans
from trainer.training.handoff import PERMISSIVE, Judged, write_model, write_models
from trainer.training.loop import train
from trainer.training.plan import PlannedPair
from trainer.training.recipe import Recipe

BOTH = (Split.TRAIN, Split.VALIDATION)


def trained(folder: Path, recipe: Recipe, steps: tuple[int, ...], splits: tuple[Split, ...] = BOTH) -> Path:
    """A finished run."""
    folder.mkdir(exist_ok=True)
    plans.write(plan_of(recipe, nifti_sources(folder, splits), steps), folder / "run")
    assert train(folder / "run", report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))
    return folder / "run"


def test_each_stage_leaves_a_model_that_the_node_serves_and_was_judged(tmp_path: Path) -> None:
    run = trained(tmp_path, thin_recipe(FIDELITY, SHARP), (2, 1))
    first, second = write_models(run, name=None, licence=None, report=lambda _line: None)
    assert (first.name, second.name) == ("tiny-thin-fidelity", "tiny-thin-sharp")
    card = model_dir.read_card(second.folder)
    assert card.kind is Kind.THIN
    assert (model_dir.read_card(first.folder).sharpness, card.sharpness) == (None, 0.0)
    assert _stored(second.folder).keys() == _stored(first.folder).keys()
    assert all(torch.equal(tensor, _stored(first.folder)[name]) for name, tensor in _stored(second.folder).items())
    assert model_dir.load_generator(second.folder).sharpness == 0.0
    assert {(row.subject, row.split, row.pairs) for row in card.data} == {
        ("person-0", "train", "simulated"),
        ("person-1", "validation", "simulated"),
    }
    assert {metric.volume for metric in card.metrics} == {"person-1"}
    assert any("discriminator" in words for words in card.failure_modes)
    assert not any("discriminator" in words for words in model_dir.read_card(first.folder).failure_modes)
    assert "2 steps of stage fidelity, 1 steps of stage sharp" in card.training
    rows = json.loads((second.folder / model_dir.METRICS_FILE).read_text())["rows"]
    assert {row["case"]["subject"] for row in rows} == {"person-1"}
    assert second.digest == model_dir.verify(second.folder)


def test_the_served_network_is_the_trained_average(tmp_path: Path) -> None:
    """Half precision moves no value by more than a thousandth."""
    from dicomnode.imaging.volume import Volume
    from trainer.training import checkpoint, networks
    from trainer.training.trained_network import set_weights

    run = trained(tmp_path, slice_recipe(Kind.SLICE), (3,), (Split.TRAIN,))
    (made,) = write_models(run, name="mine", licence="MIT", report=lambda _line: None)
    x, y, z = np.eye(3)
    thick = Volume(
        voxels=np.random.default_rng(0).uniform(100, 200, (6, 20, 20)).astype(np.float32), origin_mm=np.zeros(3),
        row_direction=x, column_direction=y, slice_step_mm=2 * z, row_spacing_mm=1.0, column_spacing_mm=1.0,
        slice_thickness_mm=2.0,
    )  # fmt: skip
    served = model_dir.load_generator(made.folder).generate(thick, thin_grid(thick, 2), device="cpu").thin
    net = networks.build(slice_recipe().network)
    set_weights(net, checkpoint.load(run / "mse" / "last.safetensors").tensors, "generator")
    assert served.voxels.shape == (12, 20, 20)
    halves = served.voxels.reshape(6, 2, 20, 20).mean(axis=1)
    np.testing.assert_allclose(halves, thick.voxels, rtol=2e-3)  # projected onto what was measured
    assert model_dir.read_card(made.folder).licence == "MIT"
    names = {name for name, _ in net.named_parameters()}
    assert names <= set(_stored(made.folder))


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    stored = load_file(folder / model_dir.WEIGHTS_FILE)
    assert {tensor.dtype for name, tensor in stored.items() if "weight" in name} == {torch.float16}
    return stored


def test_an_srcnn_is_as_wide_as_its_recipe_says_when_it_is_trained_and_when_it_is_served(tmp_path: Path) -> None:
    """Its recipe's channels were passed over: whatever it said, 64 were trained."""
    run = trained(tmp_path, slice_recipe(Kind.SRCNN), (1,), (Split.TRAIN,))
    (made,) = write_models(run, name="narrow", licence=None, report=lambda _line: None)
    card = model_dir.read_card(made.folder)
    assert card.kind is Kind.SRCNN
    assert card.parameters == SRCNNParameters(channels=8)
    assert _stored(made.folder)["head.weight"].shape[0] == 8
    assert model_dir.load_generator(made.folder).name == "narrow"


def test_data_without_a_stated_licence_bind_the_model(tmp_path: Path) -> None:
    sources = nifti_sources(tmp_path, (Split.TRAIN,))
    plan = plan_of(thin_recipe(), sources, (1,))
    unstated = plan.sources[0].model_copy(update={"licence": "not stated"})
    alike = plan.sources[0].model_copy(update={"licence": "CC-BY-SA-4.0"})
    for number, source in enumerate((unstated, alike)):
        run = tmp_path / str(number)
        plans.write(plan.model_copy(update={"sources": (source,)}), run)
        train(run, report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))
        (made,) = write_models(run, name=None, licence=None, report=lambda _line: None)
        assert "not for redistribution" in model_dir.read_card(made.folder).licence


@pytest.mark.parametrize("licence", ["MIT", "CC0", "PDDL 1.0", "BSD-2-Clause", "Apache-2.0", "CC-BY-4.0", "CC BY 4.0"])
def test_a_licence_that_asks_to_be_named_only_does_not_bind_the_model(licence: str) -> None:
    assert PERMISSIVE.fullmatch(licence)


@pytest.mark.parametrize(
    "licence", ["CC BY-SA 4.0", "CC BY-NC 4.0", "CC-BY-NC-4.0", "GPL-3.0", "internal", "MIT, but ask"]
)
def test_any_other_licence_binds_the_model(licence: str) -> None:
    assert not PERMISSIVE.fullmatch(licence)


def test_an_adversarial_stage_alone_keeps_the_weights_of_the_model_that_it_began_with(tmp_path: Path) -> None:
    run = trained(tmp_path, thin_recipe(FIDELITY), (2,), (Split.TRAIN,))
    (first,) = write_models(run, name="first", licence=None, report=lambda _line: None)
    plan = plan_of(thin_recipe(FIDELITY, SHARP), nifti_sources(tmp_path, (Split.TRAIN,)), (0, 1))
    begun = plan.model_copy(update={"begin_with": str(first.folder), "begin_digest": first.digest})
    plans.write(begun, tmp_path / "second")
    assert train(tmp_path / "second", report=lambda _line: None, stop=lambda: False, device=torch.device("cpu"))
    (made,) = write_models(tmp_path / "second", name="both", licence=None, sharpness=0.3, report=lambda _line: None)
    assert model_dir.read_card(made.folder).sharpness == 0.3
    assert all(torch.equal(tensor, _stored(first.folder)[name]) for name, tensor in _stored(made.folder).items())
    assert (made.folder / model_dir.ADVERSARIAL_FILE).read_bytes() != (
        made.folder / model_dir.WEIGHTS_FILE
    ).read_bytes()


def test_an_unfinished_stage_makes_no_model(tmp_path: Path) -> None:
    plans.write(plan_of(thin_recipe(), nifti_sources(tmp_path, (Split.TRAIN,)), (5,)), tmp_path / "run")
    train(tmp_path / "run", report=lambda _line: None, stop=lambda: True, device=torch.device("cpu"))
    with pytest.raises(InputError, match="1 of 5 steps"):
        write_model(tmp_path / "run", 0, tmp_path / "model", name="mine", judged=Judged())
    assert not (tmp_path / "model").exists()


def test_who_the_model_begun_with_learned_from_stands_in_the_new_card_too(tmp_path: Path) -> None:
    """Their licence binds the new weights as well."""
    sources = nifti_sources(tmp_path, (Split.TRAIN,))
    learned = DataRow(volume="theirs", subject="subject-1", split="train", licence="not stated")
    plan = plan_of(thin_recipe(), sources, (1,)).model_copy(
        update={"begin_with": "thin", "begin_digest": "0" * 64, "begin_data": (learned,)}
    )
    card = handoff._card(plan, 0, "mine", None, None, 60.0, Judged())
    assert ("theirs", "subject-1, by the model begun with") in {(row.volume, row.subject) for row in card.data}
    assert "not for redistribution" in card.licence
    assert "begun with the model of digest 000000000000" in card.training


def test_a_difference_in_contrast_that_was_allowed_is_a_failure_mode(tmp_path: Path) -> None:
    plan = plan_of(slice_recipe(), nifti_sources(tmp_path, (Split.TRAIN,)), (1,))
    pair = PlannedPair(
        thick="volume-0", thin="volume-0", matches=((0, 0),), registration=None, contrast=("fat saturation no and yes",)
    )
    card = handoff._card(plan.model_copy(update={"real": (pair,)}), 0, "mine", None, None, 60.0, Judged())
    assert any("fat saturation no and yes" in words for words in card.failure_modes)
