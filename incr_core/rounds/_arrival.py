"""What a participant reports about an increment before it learns it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from incr_core import metrics
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.timeline import Tick
from incr_core.metrics import Packed
from incr_core.update import Weights

__all__ = ["Arrival", "total_observed"]


def _no_rows() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(slots=True)
class Arrival:
    """A participant's report of an increment: counts, row ids and additive statistics; rows never leave their owner.

    rows: ids of the rows to learn, (n,) int64. duplicates: ids of rows that were learned before.
    arriving: rows that arrived; predicted: those of them that count as predictions; scored: earlier predictions whose
    labels became known. statistics: additive, of the rows scored.
    observed: what the rows to learn add to the running statistics of the model and the objective.
    probed: for each `Probe`, sums over rows scored or arriving. tasks: of the rows to learn, if strategies consolidate
    by task. bad, bad_files: what cannot be used. seconds: that predicting and scoring took.
    """

    tick: Tick
    rows: Tensor = field(default_factory=_no_rows)
    arriving: int = 0
    predicted: int = 0
    scored: int = 0
    statistics: Packed = field(default_factory=dict)
    observed: Weights = field(default_factory=dict)
    probed: list[Tensor] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    duplicates: Tensor = field(default_factory=_no_rows)
    bad: Sequence[BadRow] = field(default_factory=list)
    bad_files: Sequence[BadFile] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def labelled(self) -> int:
        """How many rows there are to learn."""
        return self.rows.numel()

    def __reduce__(self) -> tuple[Callable[..., Arrival], tuple[Any, ...]]:
        """In few bytes, and with nothing to look up: torch takes a hundred times as long to pickle a small tensor.

        >>> import pickle
        >>> pickle.loads(pickle.dumps(Arrival(Tick(0, "first"), torch.arange(3)))).rows
        tensor([0, 1, 2])
        """
        told = {
            "rows": _array(self.rows),
            "duplicates": _array(self.duplicates),
            "statistics": metrics.packed(self.statistics),
            "observed": {name: _array(value) for name, value in self.observed.items()},
            "probed": [_array(value) for value in self.probed],
        }
        return _unpickled, tuple(told.get(name, getattr(self, name)) for name in FIELDS)


FIELDS = tuple(field.name for field in fields(Arrival))


def _unpickled(*values: Any) -> Arrival:
    arrival = Arrival(*values)
    arrival.rows, arrival.duplicates = _tensor(arrival.rows), _tensor(arrival.duplicates)
    arrival.observed = {name: _tensor(value) for name, value in arrival.observed.items()}
    arrival.probed = [_tensor(value) for value in arrival.probed]
    return arrival


def _array(tensor: Tensor) -> Any:
    """As bytes, their type and shape; a type that numpy does not know stays torch's."""
    try:
        return metrics.raw(tensor.detach().cpu().numpy())
    except TypeError:
        return tensor


def _tensor(told: Any) -> Tensor:
    # Copied, since what a message holds is read-only, which tensors cannot be.
    return told if isinstance(told, Tensor) else torch.from_numpy(told.array().copy())


def total_observed(arrivals: Sequence[Arrival]) -> Weights:
    """The sum of what the participants observed, in their order.

    >>> total_observed([])
    {}
    """
    total: Weights = {}
    for arrival in arrivals:
        for name, value in arrival.observed.items():
            total[name] = total[name] + value if name in total else value
    return total
