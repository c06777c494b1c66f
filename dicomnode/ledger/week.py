"""The figures of the weekly letter: what came in, what was derived, kept and sent, since a moment.

Numbers, peers' names and our own words only.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from statistics import median

from sqlalchemy import Connection, func, select

from dicomnode.ledger.mapping.job import gate_figures
from dicomnode.ledger.schema import RECEIVED, delivery, job, series
from dicomnode.ledger.statements import bind_values, bound
from dicomnode.ledger.states import DeliveryState, JobState, SeriesState
from dicomnode.ledger.values import Release
from dicomnode.ledger.views import PeerWeek, Week

_RECEIVED = select(func.count()).where(series.c.origin == RECEIVED, series.c.created_at >= bound("since"))
_KEPT = (
    select(series.c.reason, func.count())
    .where(series.c.origin == RECEIVED, series.c.state == SeriesState.KEPT, series.c.state_at >= bound("since"))
    .group_by(series.c.reason)
    .order_by(func.count().desc(), series.c.reason)
)
_DERIVED = select(job.c.figures, job.c.release).where(job.c.state == JobState.DONE, job.c.finished_at >= bound("since"))
_SENT = select(delivery.c.peer, delivery.c.created_at, delivery.c.sent_at, delivery.c.proof).where(
    delivery.c.state == DeliveryState.SENT, delivery.c.sent_at >= bound("since")
)


def week(connection: Connection, since: datetime) -> Week:
    """Count what happened since a moment."""
    values = bind_values(since=since)
    took_s: dict[str, list[float]] = {}
    proofs: Counter[str] = Counter()
    for row in connection.execute(_SENT, values):
        proofs[row.proof] += 1
        took_s.setdefault(row.peer, []).append((row.sent_at - row.created_at).total_seconds())
    done = connection.execute(_DERIVED, values).all()
    results = [gate_figures(row.figures) for row in done]
    measured = [figure for figures in results for figure in figures]
    within = [figure for figure in measured if not figure.holds]
    return Week(
        since=since,
        received=connection.execute(_RECEIVED, values).scalar_one(),
        derived=len(results),
        shadow=sum(row.release == Release.SHADOW for row in done),
        kept={reason or "": number for reason, number in connection.execute(_KEPT, values)},
        sent=tuple(
            PeerWeek(peer=peer, deliveries=len(times), median_s=median(times), longest_s=max(times))
            for peer, times in sorted(took_s.items())
        ),
        proofs=dict(proofs.most_common()),
        gate_measured=sum(1 for figures in results if figures),
        gate_held=sum(1 for figures in results if any(figure.holds for figure in figures)),
        gate_nearest=max(within, key=lambda figure: figure.share or 0.0, default=None),
    )
