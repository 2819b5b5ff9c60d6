"""Table rows per client and increment: its data, the model's performance on it, and the treatment of its update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from incr_core import metrics
from incr_core.metrics import Statistics
from incr_core.objectives import Objective
from incr_core.rounds import Arrival, Contributions

__all__ = ["ClientSums", "client_rows"]


class ClientSums:
    """Accumulated statistics of each client's predictions.

    Example:
        >>> sums = ClientSums()
        >>> _ = sums.add("north", {"sums": np.ones(2)})
        >>> sums.add("north", {"sums": np.ones(2)})["sums"]
        array([2., 2.])
        >>> again = ClientSums()
        >>> again.load_state_dict(sums.state_dict())
        >>> again.add("south", {"sums": np.ones(3)})["sums"], again.add("north", {})["sums"]
        (array([1., 1., 1.]), array([2., 2., 0.]))
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._sums: dict[str, Any] = {}  # statistic -> (clients, ...)

    def add(self, client: str, statistics: Statistics) -> Statistics:
        """Add statistics of further predictions; return the client's totals, as views that later additions change."""
        place = self._places.setdefault(client, len(self._places))
        for name, value in statistics.items():
            held = self._sums.get(name, np.zeros((0,) * (value.ndim + 1)))
            shape = np.maximum(held.shape, (len(self._places), *value.shape))
            if any(shape != held.shape):  # another client, or another class
                shape[0] = max(shape[0], 2 * len(held))
                larger = np.zeros(shape)
                larger[tuple(map(slice, held.shape))] = held
                held = self._sums[name] = larger
            held[(place, *map(slice, value.shape))] += value
        return {name: held[place] for name, held in self._sums.items() if place < len(held)}

    def state_dict(self) -> dict[str, Any]:
        """Return the clients and their statistics."""
        count = len(self._places)
        return {"clients": list(self._places), "sums": {name: held[:count] for name, held in self._sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the statistics."""
        self._places = {name: place for place, name in enumerate(state["clients"])}
        self._sums = {name: np.array(held) for name, held in state["sums"].items()}


def client_rows(
    names: Sequence[str],
    arrivals: Sequence[Arrival],
    contributions: Contributions,
    sums: ClientSums,
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
                "version": version,
            }
        )
    return rows
