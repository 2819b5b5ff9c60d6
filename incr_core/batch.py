"""Batches of rows as tensors, and the division of an increment into optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch", "Inputs", "Limit", "Steps", "cat", "map_inputs", "share_of", "split_inputs"]

Inputs = Tensor | dict[str, Tensor]

Limit = int | Callable[[], bool] | None
"""Limit on optimiser steps: a number; a function that is called after each step and returns True to stop; None for all.
"""


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply `function` to the tensor or tensors of the inputs.

    Example:
        >>> map_inputs(torch.neg, {"a": torch.ones(1)})
        {'a': tensor([-1.])}
    """
    if isinstance(inputs, dict):
        return {name: function(value) for name, value in inputs.items()}
    return function(inputs)


def split_inputs(inputs: Inputs, size: int) -> list[Inputs]:
    """Split inputs into consecutive views of `size` rows; the last may be shorter.

    Example:
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

    Attributes:
        inputs: Inputs of the model, (B, ...) or a dict of such tensors.
        targets: (B,) float for binary and ranking, (B,) float64 for regression, (B,) int64 for multiclass, (B, L) float
            for multilabel, (B, T) int64 for tokens.
        weights: (B,) float, or None if every row counts once.
        task: (B,) int64, or None if the stream has no tasks.
        row_ids: (B,) int64 (see `data/_row_ids.py`), or None if row ids are not needed.
        owner: (B,) int64, the number of each row's owner, or None if a participant stands for a single owner.
        slices: (B, columns) int64 (see `data/encoding/_slices.py`), for metrics; None if the job names no slices.

    Example:
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
    owner: Tensor | None = field(default=None, kw_only=True)
    slices: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return self.targets.shape[0]

    def total_weight(self) -> float | Tensor:
        """Return the total weight of the rows: their number, or the sum of their weights."""
        return float(len(self)) if self.weights is None else self.weights.sum()

    @property
    def nbytes(self) -> int:
        """Memory of the tensors in bytes.

        Example:
            >>> Batch(torch.zeros(2, 3), torch.zeros(2)).nbytes
            32
        """
        inputs = self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]
        others = (self.targets, self.weights, self.task, self.row_ids, self.owner, self.slices)
        return sum(tensor.nbytes for tensor in (*inputs, *others) if tensor is not None)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `function` applied to each of its tensors."""
        return Batch(
            map_inputs(function, self.inputs),
            function(self.targets),
            None if self.weights is None else function(self.weights),
            None if self.task is None else function(self.task),
            None if self.row_ids is None else function(self.row_ids),
            owner=None if self.owner is None else function(self.owner),
            slices=None if self.slices is None else function(self.slices),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the tensors, for a state. Slices are left out: only predictions need them.

        Example:
            >>> state = Batch(torch.zeros(2, 1), torch.zeros(2), row_ids=torch.arange(2)).state_dict()
            >>> list(state), Batch.from_state(state).row_ids
            (['inputs', 'targets', 'weights', 'task', 'rows'], tensor([0, 1]))
        """
        state = asdict(self)
        del state["slices"]
        state["rows"], owner = state.pop("row_ids"), state.pop("owner")
        return state if owner is None else state | {"owner": owner}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Batch:
        """Restore a batch from `state_dict`."""
        inputs, targets, weights, task, rows = (
            state[name] for name in ("inputs", "targets", "weights", "task", "rows")
        )
        return cls(inputs, targets, weights, task, rows, owner=state.get("owner"))

    def take(self, index: Tensor) -> Batch:
        """Return copies of the rows at `index` (n,), in that order."""
        return self.map(lambda tensor: tensor.index_select(0, index))

    def without(self, ids: Tensor) -> Batch:
        """Return the rows whose id is not in `ids` (n,).

        Example:
            >>> Batch(torch.zeros(3, 1), torch.arange(3.0), row_ids=torch.arange(3)).without(torch.tensor([1])).targets
            tensor([0., 2.])
        """
        assert self.row_ids is not None, "rows of a stream have ids"
        return self.take((~torch.isin(self.row_ids, ids)).nonzero().flatten())

    def without_slices(self) -> Batch:
        """Return the same rows without their slices, which only metrics of predictions need.

        Example:
            >>> Batch(torch.zeros(1, 1), torch.zeros(1), slices=torch.zeros(1, 2)).without_slices().slices is None
            True
        """
        return self if self.slices is None else replace(self, slices=None)

    def slice(self, start: int, stop: int) -> Batch:
        """Return the rows from `start` up to `stop`, as views."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`. Copies from pinned memory to a GPU are asynchronous."""
        place = torch.device(device)
        if self.targets.device == place:  # all tensors of a batch are on one device
            return self
        # Pinning here would cost more than a synchronous copy. Copies from a GPU are synchronous, because they are read
        # at once.
        return self.map(lambda tensor: tensor.to(place, non_blocking=place.type != "cpu"))

    def split(self, size: int) -> list[Batch]:
        """Split into consecutive batches of `size` rows to learn, as views; the last may be shorter.

        They have no `owner` and no `slices`, which learning does not need.
        """
        count = -(-len(self) // size)
        if count == 1:
            return [self]

        def pieces(tensor: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * count if tensor is None else torch.split(tensor, size)

        inputs = split_inputs(self.inputs, size)
        others = (self.targets, self.weights, self.task, self.row_ids)
        fields = (pieces(tensor) for tensor in others)
        return [Batch(*parts) for parts in zip(inputs[:count], *fields, strict=False)]


def cat(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches, in order.

    A field that one batch lacks is missing in the result, except `weights`: missing weights count as ones.

    Example:
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
        present = [value for value in fields if value is not None]
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
        owner=joined([batch.owner for batch in batches if len(batch)]) if any(map(len, batches)) else None,
        slices=joined([batch.slices for batch in batches]),
    )


def share_of(part: float | Tensor, total: float | Tensor) -> float | Tensor:
    """Return part / total for weights of rows, and 0 if all weights are 0.

    Example:
        >>> share_of(1.0, 4.0), float(share_of(torch.zeros(()), torch.zeros(())))
        (0.25, 0.0)
    """
    return part / (total.clamp(min=torch.finfo(total.dtype).tiny) if isinstance(total, Tensor) else total)


class Steps:
    """The optimiser steps of an increment: rows in a seeded order, divided into batches, grouped by step.

    The state can be saved between any two steps. It contains the generator's state at the start of the increment and
    the number of steps taken, but no rows: given the same rows again, `begin` continues at the same step.

    Args:
        batch_size: Rows per batch.
        accumulate: Batches per step.
        shuffle: Whether each pass has a new order.
        seed: Seed of the order.
        smallest: A last batch with fewer rows is merged into the batch before it, for models that cannot learn from so
            few.

    Example:
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
        self._begun: Tensor | None = None  # generator state before the increment drew from it
        self._steps: Iterator[list[Batch]] = iter(())

    def count(self, rows: int, passes: int) -> int:
        """Return the number of steps for `passes` over that many rows."""
        full, tail = divmod(rows, self.batch_size)
        batches = full + (tail >= self.smallest or 0 < tail == rows)
        return -(-batches // self.accumulate) * passes

    @property
    def unfinished(self) -> bool:
        """Whether a loaded state is in the middle of an increment that must be passed to `begin` again."""
        return self._loaded

    def begin(self, labelled: Batch, passes: int) -> None:
        """Start an increment, or continue the one whose middle was loaded."""
        if not self._loaded:
            self._begun, self._taken = None, 0
        self._loaded = False
        self._steps = islice(self._lay_out(labelled, passes), self._taken, None)
        self.left = self.count(len(labelled), passes) - self._taken

    def take(self, steps: Limit = None) -> Iterator[list[Batch]]:
        """Yield the batches of the next `steps` steps, or of all remaining steps."""
        number, enough = (None, steps) if callable(steps) else (steps, None)
        for step in islice(self._steps, number):
            self._taken += 1
            self.left -= 1
            yield step
            if enough is not None and enough():
                return

    def places(self, rows: int, passes: int) -> list[Tensor | None]:
        """Take all steps of an increment at once, and return the row order of each pass.

        The increment must have begun without any step taken. The caller divides the rows into batches.

        Args:
            rows: Number of rows of the increment.
            passes: Number of passes.

        Returns:
            For each pass, the places of its rows in the increment, (rows,), or None for the given order.

        Example:
            >>> steps = Steps(batch_size=2, shuffle=False)
            >>> steps.begin(Batch(torch.arange(3.0), torch.arange(3.0)), passes=2)
            >>> steps.places(3, passes=2), steps.left
            ([None, None], 0)
        """
        found = [self._order(rows) for _ in range(passes)]
        self._taken, self.left, self._steps = self._taken + self.left, 0, iter(())
        return found

    def _order(self, rows: int) -> Tensor | None:
        """Return the order of the rows in a pass, or None for the given order."""
        if not self.shuffle or rows <= self.batch_size:  # order within a batch does not matter
            return None
        self._begun = self._generator.get_state() if self._begun is None else self._begun
        return torch.randperm(rows, generator=self._generator)

    def close(self) -> None:
        """End the increment, even if steps remain."""
        self._steps, self.left, self._loaded = iter(()), 0, False

    def _lay_out(self, labelled: Batch, passes: int) -> Iterator[list[Batch]]:
        for _ in range(passes):
            order = self._order(len(labelled))
            # Permuting a whole pass and slicing views is cheaper than gathering each batch.
            ordered = labelled if order is None else labelled.take(order.to(labelled.targets.device, non_blocking=True))
            batches = ordered.split(self.batch_size)
            if len(batches) > 1 and len(batches[-1]) < self.smallest:
                start = len(ordered) - len(batches[-1]) - self.batch_size
                batches[-2:] = [ordered.slice(start, len(ordered))]
            for start in range(0, len(batches), self.accumulate):
                yield batches[start : start + self.accumulate]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state before the current increment and the steps taken of it, while steps remain."""
        if self.left or self._loaded:
            begun = self._generator.get_state() if self._begun is None else self._begun
            return {"generator": begun, "taken": self._taken}
        return {"generator": self._generator.get_state(), "taken": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state. An unfinished increment must be passed to `begin` again."""
        self.close()
        self._begun, self._taken = state["generator"].cpu(), state["taken"] or 0
        self._generator.set_state(self._begun)
        self._loaded = state["taken"] is not None
