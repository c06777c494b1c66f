"""Recipes: the built-in ones are whole, a wrong one is refused with all its mistakes, rates are those of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.errors import InputError
from dicomnode.generators.kinds import Kind
from trainer.training import networks, recipe
from trainer.training.recipe import BUILT_IN, RECIPES, learning_rate, load, stage_steps


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_recipe_is_what_its_file_is_called(name: str) -> None:
    assert load(name).name == name
    assert len((RECIPES / f"{name}.toml").read_text()) < 4000


def test_the_paper_and_the_nets_beside_it_are_all_there() -> None:
    assert set(BUILT_IN) == {
        "paper-model1", "paper-model1-code", "paper-model2", "srcnn", "thin", "thin-fast", "thin-sharp", "vdsr",
    }  # fmt: skip


def test_the_fast_recipe_differs_from_thins_in_the_network_alone() -> None:
    quality, fast = (load(name).model_dump(exclude={"name", "about"}) for name in ("thin", "thin-fast"))
    assert quality.pop("network") != fast.pop("network")
    assert quality == fast


@pytest.mark.parametrize(("name", "parameters"), [("paper-model1", 1_221_953), ("paper-model2", 1_223_107)])
def test_the_papers_recipes_have_the_papers_networks(name: str, parameters: int) -> None:
    net = networks.build(load(name).network)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = (RECIPES / "thin.toml").read_text()
    text = text.replace("steps = 20000", "steps = 0").replace("clip_norm", "clipnorm").replace('"strips"', '"stripes"')
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(str(path))
    for word in ("steps", "clipnorm", "samples.design"):
        assert word in caught.value.sentence


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('kind = "thin"', 'kind = "slice"', "strips are for the kind thin"),
        ("z_gradient = 0.5", "z_gradient = 0.5, adversarial = 0.1", "belong together"),
        ('optimizer = "muon"', 'optimizer = "adam"', "muon_rate is for the optimizer muon"),
        ("cosine_to = 0.01", "cosine_to = 0.01\nrates = [[0.0, 1.0]]", "exclude each other"),
    ],
)
def test_what_does_not_fit_together_is_refused(before: str, after: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((RECIPES / "thin.toml").read_text().replace(before, after, 1))
    with pytest.raises(InputError, match=reason):
        load(str(path))


def test_a_recipe_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="There is no recipe paper-model3") as caught:
        load("paper-model3")
    assert "paper-model1" in caught.value.hint


def test_the_papers_rate_falls_half_way_and_the_codes_twice() -> None:
    """Paper: 1e-4, then 1e-5 from half-way. Its code, of five epochs: 1e-4 twice, 1e-5 twice, 1e-6 once."""
    paper, code = load("paper-model1").stage[1], load("paper-model1-code").stage[1]
    assert [learning_rate(paper, step, 4) for step in range(4)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    assert [learning_rate(code, step, 5) for step in range(5)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])


def test_the_default_rate_warms_up_and_ends_at_its_last_share() -> None:
    stage = load("thin").stage[0]
    rates = [learning_rate(stage, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(3e-6, rel=1e-3)
    assert max(rates) <= 3e-4
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == pytest.approx(3e-6, rel=0.01)


def test_steps_are_shared_as_the_stages_say() -> None:
    made = load("paper-model1")
    assert stage_steps(made, 600) == (100, 500)
    assert min(stage_steps(made, 2)) == 1


def test_networks_are_built_for_every_kind_that_can_be_trained() -> None:
    kinds = {recipe.load(name).network.kind for name in BUILT_IN}
    assert kinds == {Kind.THIN, Kind.SLICE, Kind.SLAB3, Kind.SRCNN, Kind.VDSR}
