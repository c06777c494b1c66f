"""Options that take several values at once, ``--studies A B C``, as a shell's wildcard writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click


class SeveralValues(click.Command):
    """A command without arguments: words that follow a ``multiple`` option belong to it up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Each further word gets the option's name put before it; click does the rest."""
        assert not any(isinstance(parameter, click.Argument) for parameter in self.params)
        names = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, list(_spelled_out(args, names)))


def _spelled_out(words: Sequence[str], names: set[str]) -> Iterator[str]:
    """``--studies A B`` as ``--studies A --studies B``."""
    option, values = "", 0
    for word in words:
        if word.startswith("-") and word != "-":
            name, _, value = word.partition("=")
            option, values = (name, int(bool(value))) if name in names else ("", 0)
        elif option:
            if values:
                yield option
            values += 1
        yield word
