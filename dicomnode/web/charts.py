"""Small charts, drawn as the path of an SVG: one place from left to right for each week or each point of a curve.

In: numbers, None where there is none. Out: the ``d`` of a path in a box of ``WIDTH`` × ``HEIGHT``. The content of a
chart stands in words beside it, or in a table, so that nobody needs to see the chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WIDTH: Final = 130
HEIGHT: Final = 26
_MARGIN: Final = 2  # above and below a line


def bars(shares: Sequence[float | None]) -> str:
    """Draw a bar for each share of 1, from the bottom.

    >>> bars([None, 0.0, 1.0])
    'M43 26v0h43v0zM87 26v-26h42v26z'
    """
    step = WIDTH / max(len(shares), 1)
    drawn = []
    for place, share in enumerate(shares):
        if share is not None:
            left, right = round(place * step), round((place + 1) * step) - 1
            high = round(HEIGHT * min(max(share, 0.0), 1.0))
            drawn.append(f"M{left} {HEIGHT}v{-high}h{max(right - left, 1)}v{high}z")
    return "".join(drawn)


def line(values: Sequence[float | None], *, low: float | None = None, high: float | None = None) -> str:
    """Draw a line through the values; a lone value is a dash. ``low``, ``high``: range of the box, else of the values.

    >>> line([1.0, 2.0, None, 2.0])
    'M16 24L49 2M110 2h7'
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known) if low is None else low, max(known) if high is None else high
    step = WIDTH / len(values)

    def place(at: int, value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{round((at + 0.5) * step)} {round(HEIGHT - _MARGIN - share * (HEIGHT - 2 * _MARGIN))}"

    drawn = []
    for at, value in enumerate(values):
        if value is None:
            continue
        follows = at > 0 and values[at - 1] is not None
        leads = at + 1 < len(values) and values[at + 1] is not None
        if follows or leads:
            drawn.append(f"{'L' if follows else 'M'}{place(at, value)}")
        else:
            x, _, y = place(at, value).partition(" ")
            drawn.append(f"M{max(int(x) - 4, 0)} {y}h7")
    return "".join(drawn)
