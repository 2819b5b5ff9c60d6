"""Table rows per client and increment: its data, the model's performance on it, and the treatment of its update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from incr_core import metrics
from incr_core.loop._named_sums import NamedSums
from incr_core.objectives import Objective
from incr_core.rounds import Arrival, Contributions

__all__ = ["client_rows"]


def client_rows(
    names: Sequence[str],
    arrivals: Sequence[Arrival],
    contributions: Contributions,
    sums: NamedSums,
    objective: Objective,
    version: int,
    *,
    learned: bool,
) -> list[dict[str, Any]]:
    """Return the table rows of an increment; clients without a part in it have none.

    Args:
        names: Names of the clients.
        arrivals: Their reports.
        contributions: Their contributions.
        sums: Their accumulated statistics.
        objective: The objective.
        version: The version that the increment will be part of.
        learned: Whether the offered rows were learned, not quarantined.
    """
    metric, rows = objective.main_metric, list[dict[str, Any]]()
    for number, (name, arrival) in enumerate(zip(names, arrivals, strict=True)):
        contribution = contributions.of.get(number)
        if contribution is None and not (arrival.arriving or arrival.scored or arrival.labelled):
            continue
        now = metrics.coarse(arrival.statistics) if arrival.scored else {}
        so_far = sums.add(name, now) if now else {}
        rows.append(
            {
                "increment": arrival.tick.number,
                "name": arrival.tick.name,
                "client": name,
                "rows_arriving": arrival.arriving,
                "rows_scored": arrival.scored,
                "rows_labelled": arrival.labelled if learned else 0,
                f"metric.{metric}": objective.metrics(now).get(metric) if now else None,
                f"total.{metric}": objective.metrics(so_far).get(metric) if so_far else None,
                **asdict(contributions.one(number)),
                "of_rounds": contributions.rounds,
                "bytes_down": contributions.down.get(number, 0),
                "bytes_up": contributions.up.get(number, 0),
                "version": version,
            }
        )
    return rows
