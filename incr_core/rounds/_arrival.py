"""A participant's report about an increment before it is learned."""

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
    """A participant's report of an increment: counts, row ids and additive statistics. Rows never leave their owner.

    Attributes:
        tick: The increment's tick.
        rows: Ids of the rows to learn, (n,) int64.
        arriving: Number of rows that arrived.
        predicted: Number of them that count as predictions.
        scored: Number of earlier predictions whose labels became known.
        statistics: Additive statistics of the rows scored.
        observed: Additions of the rows to learn to the running statistics of the model and the objective; encoded if
            sent by another process.
        probed: Sums over rows scored or arriving, for each `Probe`.
        tasks: Tasks of the rows to learn, if strategies consolidate by task.
        duplicates: Ids of rows that were learned before.
        dropped: Ids of rows that are not learned because of the job's limits.
        sliced: Number of scored rows in each slice, and their statistics.
        bad: Unusable rows.
        bad_files: Unusable files.
        seconds: Duration of predicting and scoring.
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
        """Number of rows to learn."""
        return self.rows.numel()

    def __reduce__(self) -> tuple[Callable[..., Arrival], tuple[Any, ...]]:
        """Pickle as plain tuples.

        Torch takes a hundred times as long to read a small tensor, and a thousand replicas report every increment.

        Example:
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
    """Return the tick, cached: all participants that report the same increment report the same tick."""
    return Tick(*told)


def _ids(rows: Tensor) -> bytearray:
    return bytearray(rows.cpu().numpy())


def _of_ids(told: Any) -> Tensor:
    return torch.frombuffer(told, dtype=torch.int64) if told else _no_rows()


def _packed(value: Tensor | Told) -> Tensor | Told:
    """Encode a tensor as bytes. A dtype unknown to numpy stays a tensor."""
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
    """Row counts of an increment over all participants.

    Attributes:
        arriving: Rows that arrived.
        predicted: Those of them that were predicted.
        scored: Earlier predictions scored.
        labelled: Rows to learn.
        duplicates: Rows that were learned before.
        bad: Unusable rows.
        dropped: Rows dropped by limits.

    Example:
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
        """Add up the participants' reports."""
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
    """Return the sum of the participants' observed statistics, in their order.

    Counts of ids are joined, since each participant has its own ids.

    Example:
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
