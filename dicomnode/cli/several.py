"""Options that take several values, ``--studies A B C``, as the wildcard of a shell writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click


class SeveralValues(click.Command):
    """A command in which all words behind a ``multiple`` option belong to that option, up to the next option.

    Arguments come before such an option.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the option before each further word, then let click parse the words."""
        names = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, list(_spelled_out(args, names)))


def _spelled_out(words: Sequence[str], names: set[str]) -> Iterator[str]:
    """Write ``--studies A B`` as ``--studies A --studies B``."""
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
