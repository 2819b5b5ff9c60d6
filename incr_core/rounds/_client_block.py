"""A block of stateless clients that learn as one participant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from incr_core.batch import Batch
from incr_core.data.timeline import Stream
from incr_core.errors import JobError
from incr_core.learner import Learner, learn_stateless, why_alone
from incr_core.rounds._arrival import Arrival
from incr_core.rounds._participant import Participant
from incr_core.update import Update, Weights, mean

__all__ = ["ClientBlock"]


class ClientBlock(Participant):
    """A block of consecutive clients that keep no state but their rows and the draws of their orders.

    Each row contains the number of its client (`Batch.owner`) and waits until this client is drawn. `offers` returns
    the number of waiting rows of each client. `take_up` makes the rows of some clients the rows of the current
    increment. `learn_drawn` learns them, each client starting at the anchor. The update of the block is the mean of its
    clients' updates, by rows.

    A client takes its rows in the order of a participant with the seed `seed` + its number. Its generator is made for
    each round and repeats the earlier draws of the client first.

    Args:
        name, stream, learner: as for `Participant`. All clients use this learner.
        seed: the seed of the client with number 0.
        at_once: maximum number of clients that are learned as one batch.

    Raises:
        JobError: the learner keeps something between rounds, or cannot be learned together with others.

    Reference:
        Kairouz et al., Advances and Open Problems in Federated Learning (2021, arXiv:1912.04977), table 1: clients of
        the cross-device setting are stateless.
    """

    def __init__(self, name: str, stream: Stream, learner: Learner, *, seed: int, at_once: int, **options: Any) -> None:
        super().__init__(name, stream, learner, **options)
        keeps = "strategies that consolidate" if learner.consolidates else why_alone(learner)
        if keeps:
            raise JobError(
                f"federated.stateless: expected clients that keep nothing and are learned as one batch, got {keeps}; "
                "leave stateless out, so that each client has its own learner"
            )
        self._seed, self._at_once = seed, at_once
        self._left: Batch | None = None  # rows that keep waiting while others are learned
        self._drawn: dict[int, list[int]] = {}  # client -> lengths of the orders drawn so far

    def receive(self, number: int | None = None) -> Arrival | None:
        """Take the next increment. Its rows join the waiting rows, and the arrival contains no row ids yet."""
        self._settle()
        arrival = super().receive(number)
        if arrival is not None:
            arrival.rows = arrival.rows[:0]
        return arrival

    def _observed(self, rows: Batch) -> Weights:
        """Nothing: `take_up` returns the additions of the rows that are taken up."""
        return {}

    def offers(self) -> tuple[Tensor, Tensor]:
        """The numbers of the clients with rows to learn, (n,), and the number of rows of each, (n,)."""
        rows = None if self.increment is None or self.increment.begun else self.increment.labelled
        if rows is None or rows.owner is None or not len(rows):
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        first = int(rows.owner.min())
        counts = torch.bincount(rows.owner - first)
        clients = counts.nonzero().flatten()
        return clients + first, counts[clients]

    def take_up(self, clients: Tensor) -> tuple[Tensor, Weights]:
        """Make the rows of these clients, (n,) ascending, the rows of the current increment. All others keep waiting.

        Returns the ids of the rows, (B,), and their additions to running statistics.
        """
        assert self.increment is not None, "receive an increment before learning it"
        waiting = self.increment.labelled
        assert waiting.owner is not None
        mine = _among(waiting.owner, clients)
        places, others = mine.nonzero().flatten(), (~mine).nonzero().flatten()
        places = places[waiting.owner[places].argsort(stable=True)]
        taken, self._left = waiting.take(places), waiting.take(others)
        self.increment.labelled = taken
        assert taken.row_ids is not None
        return taken.row_ids, self.learner.observe(taken)

    def learn_drawn(self, anchor: Mapping[str, Tensor], clients: Tensor, first: bool) -> Update:
        """Learn one round of these clients, (n,) ascending, on their rows among those taken up."""
        assert self.increment is not None
        self.adopt(anchor)
        self.prepare(first)
        self.learner.steps.close()
        rows, passes = self.increment.labelled, self.passes()
        assert rows.owner is not None
        rows = rows.take(_among(rows.owner, clients).nonzero().flatten())
        if why := why_alone(self.learner, rows):
            raise JobError(
                f"federated.stateless: expected clients that can be learned as one batch, got {why}; leave it out"
            )
        assert rows.owner is not None
        whose, sizes = rows.owner.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        updates, start = list[Update](), 0
        for some, counts in zip(whose.split(self._at_once), sizes.split(self._at_once), strict=True):
            stop = start + int(counts.sum())
            orders = self._orders(some, counts, passes)
            updates.append(learn_stateless(self.learner, rows.slice(start, stop), counts, passes, dict(anchor), orders))
            start = stop
        merged = Update(mean(updates, anchor, self.learner.rules()), sum(update.num_rows for update in updates))
        merged.losses = {"loss": sum(update.losses["loss"] for update in updates)}
        merged.steps = sum(update.steps for update in updates)
        return merged

    def _orders(self, clients: Tensor, sizes: Tensor, passes: int) -> Sequence[Sequence[Tensor | None]]:
        """The order of each client's rows in each pass; empty if all clients use the stored order."""
        steps = self.learner.steps
        if not steps.shuffle or int(sizes.max()) <= steps.batch_size:  # within a batch, order does not matter
            return ()
        return [
            [None] * passes if rows <= steps.batch_size else self._draw(client, rows, passes)
            for client, rows in zip(clients.tolist(), sizes.tolist(), strict=True)
        ]

    def _draw(self, client: int, rows: int, passes: int) -> list[Tensor | None]:
        generator = torch.Generator().manual_seed(self._seed + client)
        before = self._drawn.setdefault(client, [])
        for length in before:
            torch.randperm(length, generator=generator)
        before += [rows] * passes
        return [torch.randperm(rows, generator=generator) for _ in range(passes)]

    def _settle(self) -> None:
        """End the current increment: the rows that were not taken up wait for the next one."""
        if self._left is not None and self.increment is not None:
            self.increment.labelled, self.increment.begun, self._left = self._left, False, None

    def state_dict(self, exchanged: Mapping[str, Any] | None = None, *, whole: bool = False) -> dict[str, Any]:
        """The participant's state, the draws of each client and, within an increment, the rows that keep waiting."""
        if not whole:
            self._settle()
        lengths = torch.tensor([length for drawn in self._drawn.values() for length in drawn], dtype=torch.int64)
        whose = torch.tensor(list(self._drawn), dtype=torch.int64)
        counts = torch.tensor([len(drawn) for drawn in self._drawn.values()], dtype=torch.int64)
        drawn = {"clients": whose, "counts": counts, "lengths": lengths}
        left = None if self._left is None else self._left.state_dict()
        return super().state_dict(exchanged, whole=whole) | {"drawn": drawn, "left": left}

    def _take_back(self, state: Mapping[str, Any]) -> dict[str, Any]:
        drawn = state["drawn"]
        lengths = drawn["lengths"].split(drawn["counts"].tolist())
        self._drawn = {
            client: own.tolist() for client, own in zip(drawn["clients"].tolist(), lengths, strict=len(lengths) > 0)
        }
        self._left = None if state["left"] is None else Batch.from_state(state["left"])
        return super()._take_back(state)


def _among(owners: Tensor, clients: Tensor) -> Tensor:
    """Return whether each row's owner is among the clients, (B,). The clients are in ascending order.

    >>> _among(torch.tensor([7, 3, 9, 7]), torch.tensor([3, 7]))
    tensor([ True,  True, False,  True])
    """
    if not len(clients):
        return torch.zeros(len(owners), dtype=torch.bool)
    places = torch.searchsorted(clients, owners).clamp(max=len(clients) - 1)
    found: Tensor = clients[places] == owners
    return found
