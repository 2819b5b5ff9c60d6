"""What a participant reports about an increment before it learns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache, reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from incr_core import metrics
from incr_core.data.encoding import BadFile, BadRow
from incr_core.data.timeline import Tick
from incr_core.metrics import Packed, Told
from incr_core.models import is_id_count
from incr_core.update import Weights

__all__ = ["Arrival", "Counts", "total_observed"]


def _no_rows() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(slots=True)
class Arrival:
    """A participant's report of an increment: counts, row ids and additive statistics; rows never leave their owner.

    rows: ids of the rows to learn, (n,) int64. duplicates: ids of rows that were learned before.
    dropped: ids of rows that are not learned, since there are more than the job's limits allow.
    arriving: rows that arrived; predicted: those of them that count as predictions; scored: earlier predictions whose
    labels became known. statistics: additive, of the rows scored. sliced: slice -> how many of these rows are in it,
    and their statistics.
    observed: what the rows to learn add to the running statistics of the model and the objective; packed, where another
    process has sent it.
    probed: for each `Probe`, sums over rows scored or arriving. tasks: of the rows to learn, if strategies consolidate
    by task. bad, bad_files: what cannot be used. seconds: that predicting and scoring took.
    """

    tick: Tick
    rows: Tensor = field(default_factory=_no_rows)
    arriving: int = 0
    predicted: int = 0
    scored: int = 0
    statistics: Packed = field(default_factory=dict)
    observed: Mapping[str, Tensor | Told] = field(default_factory=dict)
    probed: list[Tensor] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    duplicates: Tensor = field(default_factory=_no_rows)
    bad: Sequence[BadRow] = field(default_factory=list)
    bad_files: Sequence[BadFile] = field(default_factory=list)
    seconds: float = 0.0
    sliced: Mapping[str, tuple[int, Packed]] = field(default_factory=dict)
    dropped: Tensor = field(default_factory=_no_rows)

    @property
    def labelled(self) -> int:
        """How many rows there are to learn."""
        return self.rows.numel()

    def __reduce__(self) -> tuple[Callable[..., Arrival], tuple[Any, ...]]:
        """In few bytes, as plain tuples: torch takes a hundred times as long to read a small tensor, and a thousand
        replicas tell of every increment.

        >>> import pickle
        >>> pickle.loads(pickle.dumps(Arrival(Tick(0, "first"), torch.arange(3)))).rows
        tensor([0, 1, 2])
        """
        tick = self.tick
        told = {
            "tick": (tick.number, tick.name, tick.warm, tick.time),
            "rows": _ids(self.rows),
            "duplicates": _ids(self.duplicates),
            "dropped": _ids(self.dropped),
            "statistics": metrics.packed(self.statistics),
            "observed": {name: _packed(value) for name, value in self.observed.items()},
            "probed": [_packed(value) for value in self.probed],
            "sliced": {name: (rows, metrics.packed(sums)) for name, (rows, sums) in self.sliced.items()},
        }
        return _arrived, tuple(told.get(name, getattr(self, name)) for name in FIELDS)


FIELDS = tuple(field.name for field in fields(Arrival))


def _arrived(*values: Any) -> Arrival:
    arrival = Arrival(*values)
    arrival.tick = _tick(arrival.tick)
    arrival.rows, arrival.duplicates = _of_ids(arrival.rows), _of_ids(arrival.duplicates)
    arrival.dropped = _of_ids(arrival.dropped)
    arrival.probed = [_unpacked(value) for value in arrival.probed]
    return arrival


@lru_cache(16)
def _tick(told: Any) -> Tick:
    """All who report the same increment report the same tick."""
    return Tick(*told)


def _ids(rows: Tensor) -> bytearray:
    return bytearray(rows.cpu().numpy())


def _of_ids(told: Any) -> Tensor:
    return torch.frombuffer(told, dtype=torch.int64) if told else _no_rows()


def _packed(value: Tensor | Told) -> Tensor | Told:
    """As bytes; a type that numpy does not know stays torch's."""
    if not isinstance(value, Tensor):
        return value
    try:
        return metrics.packed_array(value.detach().cpu().numpy())
    except TypeError:
        return value


def _unpacked(value: Tensor | Told) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(metrics.unpacked(value).copy())


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of an increment over all participants: those that arrived, and of them those predicted; earlier predictions
    scored; rows to learn; rows that were learned before; rows that cannot be used; rows dropped by limits.

    >>> Counts.of([Arrival(Tick(0, "first"), torch.arange(3), arriving=5), Arrival(Tick(0, "first"), arriving=2)])
    Counts(arriving=7, predicted=0, scored=0, labelled=3, duplicates=0, bad=0, dropped=0)
    """

    arriving: int
    predicted: int
    scored: int
    labelled: int
    duplicates: int
    bad: int
    dropped: int = 0

    @classmethod
    def of(cls, arrivals: Sequence[Arrival]) -> Counts:
        """Add up what participants report."""
        told = [
            (
                one.arriving,
                one.predicted,
                one.scored,
                one.labelled,
                one.duplicates.numel(),
                len(one.bad),
                one.dropped.numel(),
            )
            for one in arrivals
        ]
        return cls(*map(sum, zip(*told, strict=True)))


def total_observed(arrivals: Sequence[Arrival]) -> Weights:
    """The sum of what the participants observed, in their order; counts of ids are joined, since each has its own ids.

    >>> total_observed([])
    {}
    """
    columns: dict[str, list[Tensor | Told]] = {}
    for arrival in arrivals:
        for name, value in arrival.observed.items():
            columns.setdefault(name, []).append(value)
    return {name: (_joined if is_id_count(name) else _added)(column) for name, column in columns.items()}


def _joined(column: Sequence[Tensor | Told]) -> Tensor:
    return torch.cat([value if isinstance(value, Tensor) else _unpacked(value) for value in column])


def _added(column: Sequence[Tensor | Told]) -> Tensor:
    here = [value for value in column if isinstance(value, Tensor)]
    sent = [value for value in column if isinstance(value, tuple)]
    return reduce(add, [*here, *([torch.from_numpy(metrics.added(sent))] if sent else [])])
