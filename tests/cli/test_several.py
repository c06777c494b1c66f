"""Several values after one option, as a shell's wildcard writes them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from dicomnode.cli.several import SeveralValues


@click.command(cls=SeveralValues)
@click.option("--studies", multiple=True)
@click.option("--model", "models", multiple=True)
@click.option("--seed", default=0)
@click.option("--json", "as_json", is_flag=True)
def show(studies: tuple[str, ...], models: tuple[str, ...], seed: int, as_json: bool) -> None:
    """Print what was understood."""
    click.echo(f"{studies} {models} {seed} {as_json}")


@pytest.mark.parametrize(
    ("words", "understood"),
    [
        ("--studies a b c --model x", "('a', 'b', 'c') ('x',) 0 False"),
        ("--studies a --studies b", "('a', 'b') () 0 False"),
        ("--studies=a b --seed 3 --model x y", "('a', 'b') ('x', 'y') 3 False"),
        ("--json --studies a - b", "('a', '-', 'b') () 0 True"),
    ],
)
def test_words_belong_to_the_option_before_them(words: str, understood: str) -> None:
    assert CliRunner().invoke(show, words.split()).output.strip() == understood


@click.command(cls=SeveralValues)
@click.argument("source", required=False)
@click.option("--archive", multiple=True)
@click.option("--out")
def derive(source: str | None, archive: tuple[str, ...], out: str | None) -> None:
    """Print what was understood."""
    click.echo(f"{source} {archive} {out}")


@pytest.mark.parametrize(
    ("words", "understood"),
    [
        ("src --out o", "src () o"),
        ("--archive a b --out o", "None ('a', 'b') o"),
        ("src --archive a b", "src ('a', 'b') None"),
    ],
)
def test_an_argument_comes_before_the_option_with_several_values(words: str, understood: str) -> None:
    assert CliRunner().invoke(derive, words.split()).output.strip() == understood


@pytest.mark.parametrize("words", ["stray", "--seed 3 stray", "--json stray", "--studies"])
def test_a_word_that_belongs_to_nothing_is_refused(words: str) -> None:
    assert CliRunner().invoke(show, words.split()).exit_code == 2
