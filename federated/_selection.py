"""Selection of the clients with rows that learn in a round, drawn by the job's seed for any number of workers.

A client that is drawn in none of an increment's rounds keeps its rows, and offers them again with its next increment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from incr_core.job import FederatedSection

__all__ = ["Selection"]


class Selection:
    """The draw that `[federated]` defines.

    A round has ceil(fraction * n) of n clients with rows, or `clients_per_round`, but at least `min_clients` if that
    many have rows. Clients are drawn without replacement, with equal chances ("uniform") or by weights ("rows": rows to
    learn; "availability": share of questions answered so far). The draw takes the k largest of log(u_i) / weight_i with
    uniform u_i.

    Args:
        wanted: The section.
        seed: The job's seed.

    Example:
        >>> draw = Selection(FederatedSection(clients_per_round=2, select="rows", rounds=2), seed=0)
        >>> draw.rounds({3: 1, 5: 1000, 8: 1000})
        [[5, 8], [5, 8]]

    Reference:
        Efraimidis and Spirakis 2006, algorithm A.
    """

    def __init__(self, wanted: FederatedSection, seed: int) -> None:
        self._wanted = wanted
        self._generator = torch.Generator().manual_seed(seed)
        self._asked: dict[int, list[int]] = {}  # client -> number of questions and of answers

    def rounds(self, rows: Mapping[int, int], *, all_of_them: bool = False) -> list[list[int]]:
        """Return the clients of each round of an increment, in order.

        Args:
            rows: Client -> its number of rows to learn.
            all_of_them: Select all, as in the warm start, when no model exists yet.
        """
        candidates, wanted = list(rows), self._wanted
        if not candidates:
            return []
        if all_of_them or not wanted.selects:
            return [candidates] * wanted.rounds
        size = wanted.clients_per_round or math.ceil(wanted.fraction * len(candidates))
        size = min(max(size, wanted.min_clients), len(candidates))
        draws = [self._draw(rows)[:size].sort().values.tolist() for _ in range(wanted.rounds)]
        return [[candidates[place] for place in draw] for draw in draws]

    def _draw(self, rows: Mapping[int, int]) -> Tensor:
        """Return the places of all candidates in the order of the draw."""
        if self._wanted.select == "uniform":
            return torch.randperm(len(rows), generator=self._generator)
        weights = list(map(self._answers, rows)) if self._wanted.select == "availability" else list(rows.values())
        chances = torch.rand(len(rows), generator=self._generator, dtype=torch.float64).log()
        return (chances / torch.tensor(weights, dtype=torch.float64)).argsort(descending=True, stable=True)

    def _answers(self, client: int) -> float:
        """Return the share of questions that a client has answered, with one more counted as answered."""
        asked, answered = self._asked.get(client, (0, 0))
        return (answered + 1) / (asked + 1)

    def answered(self, asked: Sequence[int], answers: Mapping[int, object]) -> None:
        """Record the questions to these clients, and the clients that have answered."""
        if self._wanted.select == "availability":
            for client in asked:
                record = self._asked.setdefault(client, [0, 0])
                record[0] += 1
                record[1] += client in answers

    def state_dict(self) -> dict[str, Any]:
        """Return the state of later draws."""
        return {"generator": self._generator.get_state(), "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of later draws."""
        self._generator.set_state(state["generator"])
        self._asked = {int(client): list(record) for client, record in state["asked"].items()}
