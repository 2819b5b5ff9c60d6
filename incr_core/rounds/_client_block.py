"""Clients that keep nothing from round to round, many of them as one participant."""

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
    """A block of consecutive clients, each of which is its rows and the order that it takes them in.

    Rows tell their client (`Batch.owner`). They wait until their client is drawn: `offers` says how many each has,
    `take_up` makes those of some clients the rows of the increment at hand, and `learn_drawn` learns them, each client
    from the anchor on. The block's update is the mean of theirs, by rows.

    A client takes its rows in the order that a participant with the seed `seed` + its number would: a generator of its
    own draws it, which is made for a round and goes through its earlier draws again.

    Args:
        name, stream, learner: as of a participant; the learner stands for that of any client.
        seed: of the client with number 0.
        at_once: clients that are learned as one batch, at most.

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
                "leave stateless out, so that each client has a learner of its own"
            )
        self._seed, self._at_once = seed, at_once
        self._left: Batch | None = None  # rows that wait on, while others are learned
        self._drawn: dict[int, list[int]] = {}  # client -> lengths of the orders that it has drawn

    def receive(self, number: int | None = None) -> Arrival | None:
        """Take the next increment. Its rows wait with those before, and none is offered by its id yet."""
        self._settle()
        arrival = super().receive(number)
        if arrival is not None:
            arrival.rows = arrival.rows[:0]
        return arrival

    def _observed(self, rows: Batch) -> Weights:
        """Nothing: of rows that are taken up `take_up` tells."""
        return {}

    def offers(self) -> tuple[Tensor, Tensor]:
        """The numbers of the clients with rows to learn, (n,), and how many each has, (n,)."""
        rows = None if self.increment is None or self.increment.begun else self.increment.labelled
        if rows is None or rows.owner is None or not len(rows):
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        first = int(rows.owner.min())
        counts = torch.bincount(rows.owner - first)
        clients = counts.nonzero().flatten()
        return clients + first, counts[clients]

    def take_up(self, clients: Tensor) -> tuple[Tensor, Weights]:
        """Make the rows of these clients, (n,) ascending, those of the increment at hand; the others wait on.

        Returns their ids, (B,), and what they add to running statistics.
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
        """One round of these clients, (n,) ascending, over their rows of those taken up."""
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
        """The order that each client takes its rows in, in each pass; none where all take them as they lie."""
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
        """The increment at hand is over: what was not taken up waits."""
        if self._left is not None and self.increment is not None:
            self.increment.labelled, self.increment.begun, self._left = self._left, False, None

    def state_dict(self, exchanged: Mapping[str, Any] | None = None, *, whole: bool = False) -> dict[str, Any]:
        """As of a participant, and what each client has drawn; in the middle of an increment, the rows that wait on."""
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
    """Which of these rows' owners are among the clients, which come in ascending order.

    >>> _among(torch.tensor([7, 3, 9, 7]), torch.tensor([3, 7]))
    tensor([ True,  True, False,  True])
    """
    if not len(clients):
        return torch.zeros(len(owners), dtype=torch.bool)
    places = torch.searchsorted(clients, owners).clamp(max=len(clients) - 1)
    found: Tensor = clients[places] == owners
    return found
