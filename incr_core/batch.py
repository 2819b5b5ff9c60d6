"""A batch: tensors for some rows; and the steps in which an increment's rows become batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch", "Inputs", "Limit", "Steps", "cat", "map_inputs", "share_of", "split_inputs"]

Inputs = Tensor | dict[str, Tensor]

Limit = int | Callable[[], bool] | None
"""How many optimiser steps to take: a number; until this, asked after each, says it is enough; None: all there are."""


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Inputs with `function` applied to their one or several tensors.

    >>> map_inputs(torch.neg, {"a": torch.ones(1)})
    {'a': tensor([-1.])}
    """
    if isinstance(inputs, dict):
        return {name: function(value) for name, value in inputs.items()}
    return function(inputs)


def split_inputs(inputs: Inputs, size: int) -> list[Inputs]:
    """Consecutive inputs of `size` rows, as views; the last may be shorter.

    >>> [len(part) for part in split_inputs(torch.ones(3), 2)]
    [2, 1]
    """
    if isinstance(inputs, dict):
        columns = [torch.split(value, size) for value in inputs.values()]
        return [dict(zip(inputs, parts, strict=True)) for parts in zip(*columns, strict=True)]
    return list(torch.split(inputs, size))


@dataclass(slots=True)
class Batch:
    """Tensors for B rows; treat it as immutable.

    inputs: what the model takes, (B, ...) or a dict of such tensors.
    targets: (B,) float for binary and ranking, (B,) float64 for regression, (B,) int64 for multiclass, (B, L) float for
        multilabel, (B, T) int64 for tokens.
    weights: (B,) float, or None where every row counts once.
    task: (B,) int64, or None where the stream has no tasks.
    row_ids: (B,) int64 (see `data/_row_ids.py`), or None where nobody asks which rows these are.
    owner: (B,) int64, the number of each row's owner, or None where a participant stands for one owner alone.

    >>> batch = Batch(torch.arange(6.0).reshape(3, 2), torch.tensor([0.0, 1.0, 1.0]))
    >>> len(batch), [len(part) for part in batch.split(2)]
    (3, [2, 1])
    >>> batch.take(torch.tensor([2])).inputs
    tensor([[4., 5.]])
    """

    inputs: Inputs
    targets: Tensor
    weights: Tensor | None = None
    task: Tensor | None = None
    row_ids: Tensor | None = None
    owner: Tensor | None = None

    def __len__(self) -> int:
        return self.targets.shape[0]

    def total_weight(self) -> float | Tensor:
        """What its rows count for together: their number, or the sum of their weights."""
        return float(len(self)) if self.weights is None else self.weights.sum()

    @property
    def nbytes(self) -> int:
        """What its tensors take of memory.

        >>> Batch(torch.zeros(2, 3), torch.zeros(2)).nbytes
        32
        """
        inputs = self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]
        others = (self.targets, self.weights, self.task, self.row_ids, self.owner)
        return sum(tensor.nbytes for tensor in (*inputs, *others) if tensor is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `function` applied to each of its tensors."""
        return Batch(
            map_inputs(function, self.inputs),
            function(self.targets),
            None if self.weights is None else function(self.weights),
            None if self.task is None else function(self.task),
            None if self.row_ids is None else function(self.row_ids),
            None if self.owner is None else function(self.owner),
        )

    def state_dict(self) -> dict[str, Any]:
        """Copies of its tensors, as states keep them.

        >>> state = Batch(torch.zeros(2, 1), torch.zeros(2), row_ids=torch.arange(2)).state_dict()
        >>> list(state), Batch.from_state(state).row_ids
        (['inputs', 'targets', 'weights', 'task', 'rows'], tensor([0, 1]))
        """
        state = asdict(self)
        state["rows"], owner = state.pop("row_ids"), state.pop("owner")
        return state if owner is None else state | {"owner": owner}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Batch:
        """Back from `state_dict`."""
        inputs, targets, weights, task, rows = (
            state[name] for name in ("inputs", "targets", "weights", "task", "rows")
        )
        return cls(inputs, targets, weights, task, rows, state.get("owner"))

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` (n,), copied, in that order."""
        return self.map(lambda tensor: tensor.index_select(0, index))

    def without(self, ids: Tensor) -> Batch:
        """The rows whose id is not among `ids` (n,).

        >>> Batch(torch.zeros(3, 1), torch.arange(3.0), row_ids=torch.arange(3)).without(torch.tensor([1])).targets
        tensor([0., 2.])
        """
        assert self.row_ids is not None, "rows of a stream have ids"
        return self.take((~torch.isin(self.row_ids, ids)).nonzero().flatten())

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from `start` up to `stop`, as views."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; rows that lie in pinned memory are copied to a GPU while this process goes on."""
        place = torch.device(device)
        if self.targets.device == place:  # and with it all of the batch
            return self
        # Pinning them here would cost more than to wait for the copy. What comes from a GPU must be here to be read.
        return self.map(lambda tensor: tensor.to(place, non_blocking=place.type != "cpu"))

    def split(self, size: int) -> list[Batch]:
        """Consecutive batches of `size` rows, as views; the last may be shorter."""
        count = -(-len(self) // size)
        if count == 1:
            return [self]

        def pieces(tensor: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * count if tensor is None else torch.split(tensor, size)

        inputs = split_inputs(self.inputs, size)
        others = (self.targets, self.weights, self.task, self.row_ids, self.owner)
        fields = (pieces(tensor) for tensor in others)
        return [Batch(*parts) for parts in zip(inputs[:count], *fields, strict=False)]


def cat(batches: Sequence[Batch]) -> Batch:
    """One batch of all rows, in order. A field that one batch lacks is missing in the result,
    but `weights`, where a missing one counts as ones.

    >>> one = Batch(torch.zeros(1, 2), torch.zeros(1))
    >>> len(cat([one, one, one]))
    3
    """
    if len(batches) == 1:
        return batches[0]
    first = batches[0].inputs
    inputs: Inputs
    if isinstance(first, dict):
        inputs = {
            name: torch.cat([batch.inputs[name] for batch in batches])  # type: ignore[index]
            for name in first
        }
    else:
        inputs = torch.cat([batch.inputs for batch in batches])  # type: ignore[misc]

    def joined(fields: list[Tensor | None]) -> Tensor | None:
        present = [field for field in fields if field is not None]
        return torch.cat(present) if len(present) == len(fields) else None

    weights: list[Tensor | None] = [batch.weights for batch in batches]
    if any(weight is not None for weight in weights):
        weights = [
            torch.ones(len(batch), device=batch.targets.device) if batch.weights is None else batch.weights
            for batch in batches
        ]
    return Batch(
        inputs,
        torch.cat([batch.targets for batch in batches]),
        joined(weights),
        joined([batch.task for batch in batches]),
        joined([batch.row_ids for batch in batches]),
        joined([batch.owner for batch in batches if len(batch)]) if any(map(len, batches)) else None,
    )


def share_of(part: float | Tensor, total: float | Tensor) -> float | Tensor:
    """part / total, of weights of rows, which may all be 0.

    >>> share_of(1.0, 4.0), float(share_of(torch.zeros(()), torch.zeros(())))
    (0.25, 0.0)
    """
    return part / (total.clamp(min=torch.finfo(total.dtype).tiny) if isinstance(total, Tensor) else total)


class Steps:
    """The optimiser steps of an increment: its rows in a seeded order, cut into batches, grouped by step.

    batch_size: rows of a batch. accumulate: batches of a step. shuffle: each pass in a new order.
    smallest: a last batch of fewer rows joins the one before it, for models that cannot learn from so few.

    It may be saved between any two steps. Only the generator's state at the beginning of the increment and the
    number of steps taken are kept, never the rows: given the same rows again, `begin` goes on where it was.

    >>> steps = Steps(batch_size=2, accumulate=2, shuffle=False)
    >>> rows = Batch(torch.arange(5.0), torch.arange(5.0))
    >>> steps.begin(rows, passes=1)
    >>> [[batch.inputs.tolist() for batch in step] for step in steps.take(1)]
    [[[0.0, 1.0], [2.0, 3.0]]]
    >>> later = Steps(batch_size=2, accumulate=2, shuffle=False)
    >>> later.load_state_dict(steps.state_dict())
    >>> later.begin(rows, passes=1)
    >>> [[batch.inputs.tolist() for batch in step] for step in later.take()]
    [[[4.0]]]
    """

    def __init__(
        self, batch_size: int, accumulate: int = 1, shuffle: bool = True, seed: int = 0, smallest: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.shuffle = shuffle
        self.smallest = smallest
        self.left = 0
        self._taken = 0
        self._loaded = False
        self._generator = torch.Generator().manual_seed(seed)
        self._begun: Tensor | None = None  # its state before an increment drew from it
        self._steps: Iterator[list[Batch]] = iter(())

    def count(self, rows: int, passes: int) -> int:
        """How many steps `passes` over that many rows take."""
        full, tail = divmod(rows, self.batch_size)
        batches = full + (tail >= self.smallest or 0 < tail == rows)
        return -(-batches // self.accumulate) * passes

    @property
    def unfinished(self) -> bool:
        """Whether a state was loaded from the middle of an increment, which `begin` has yet to be given again."""
        return self._loaded

    def begin(self, labelled: Batch, passes: int) -> None:
        """Lay out an increment, or go on with the one whose middle was loaded."""
        if not self._loaded:
            self._begun, self._taken = None, 0
        self._loaded = False
        self._steps = islice(self._lay_out(labelled, passes), self._taken, None)
        self.left = self.count(len(labelled), passes) - self._taken

    def take(self, steps: Limit = None) -> Iterator[list[Batch]]:
        """The batches of the next `steps` steps, or of all that are left."""
        number, enough = (None, steps) if callable(steps) else (steps, None)
        for step in islice(self._steps, number):
            self._taken += 1
            self.left -= 1
            yield step
            if enough is not None and enough():
                return

    def places(self, rows: int, passes: int) -> list[Tensor | None]:
        """Take all steps of an increment that has begun and of which none is taken, as the places (rows,) in it of the
        rows of each pass, None where they come as they lie; whoever asks cuts them into batches.

        >>> steps = Steps(batch_size=2, shuffle=False)
        >>> steps.begin(Batch(torch.arange(3.0), torch.arange(3.0)), passes=2)
        >>> steps.places(3, passes=2), steps.left
        ([None, None], 0)
        """
        found = [self._order(rows) for _ in range(passes)]
        self._taken, self.left, self._steps = self._taken + self.left, 0, iter(())
        return found

    def _order(self, rows: int) -> Tensor | None:
        """The order of the rows in a pass; None: as they lie."""
        if not self.shuffle or rows <= self.batch_size:  # within a batch, order is no matter
            return None
        self._begun = self._generator.get_state() if self._begun is None else self._begun
        return torch.randperm(rows, generator=self._generator)

    def close(self) -> None:
        """The increment is over, with all its steps taken or without."""
        self._steps, self.left, self._loaded = iter(()), 0, False

    def _lay_out(self, labelled: Batch, passes: int) -> Iterator[list[Batch]]:
        for _ in range(passes):
            order = self._order(len(labelled))
            # Permuting a pass once and cutting views is cheaper than gathering each batch.
            ordered = labelled if order is None else labelled.take(order.to(labelled.targets.device, non_blocking=True))
            batches = ordered.split(self.batch_size)
            if len(batches) > 1 and len(batches[-1]) < self.smallest:
                start = len(ordered) - len(batches[-1]) - self.batch_size
                batches[-2:] = [ordered.slice(start, len(ordered))]
            for start in range(0, len(batches), self.accumulate):
                yield batches[start : start + self.accumulate]

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stood before the increment at hand and the steps taken of it, while some are left."""
        if self.left or self._loaded:
            begun = self._generator.get_state() if self._begun is None else self._begun
            return {"generator": begun, "taken": self._taken}
        return {"generator": self._generator.get_state(), "taken": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; an increment that was not finished must be begun again."""
        self.close()
        self._begun, self._taken = state["generator"].cpu(), state["taken"] or 0
        self._generator.set_state(self._begun)
        self._loaded = state["taken"] is not None
