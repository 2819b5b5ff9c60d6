"""Random partitions: the owner of a row depends on a seed, the row's number, and its label or time.

No counts and no later rows are needed, so a stream is partitioned in the same way for every reader and after every
resume. Shares are met in expectation: of n rows, an owner with share p gets n p, plus or minus sqrt(n p (1 - p)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from incr_core.data.encoding import indexed, text

__all__ = ["ByDraw", "ByTime", "Marks", "Numbered", "shares_of"]

Marks = tuple[Sequence[object], np.ndarray[Any, Any]]
"""The possible owners of rows, and for each row the number of its owner (B,)."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Numbered:
    """A partition with numbered owners: the mark of a row is the number of its owner."""

    index: int

    @property
    def mark(self) -> str | None:
        """The mark of the owner, as text."""
        return str(self.index)

    def marked(self, values: Sequence[object], codes: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Select the owned rows, given their marks: (B,) bool."""
        return np.asarray(codes == self.index)


@dataclass(frozen=True)
class ByDraw(Numbered):
    """Rows drawn for owner `index` of `count`, with the owners' shares in rows of the same label as probabilities.

    Args:
        index: The owner, from 0.
        count: The number of owners.
        kind: The distribution of shares (`shares_of`).
        number: The argument of `kind`.
        column: The column of labels; None if labels do not matter.
        classes: The labels as text, if `kind` requires them.
        seed: The seed of shares and draws.

    Example:
        >>> table, ids = pa.table({"y": ["a", "b"] * 500}), np.arange(1000)
        >>> [int(ByDraw(index, 4, "iid").mask(table, ids).sum()) for index in range(4)]
        [263, 236, 263, 238]
    """

    index: int
    count: int
    kind: str
    number: float = 0.0
    column: str | None = None
    classes: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON has only lists

    @property
    def columns(self) -> list[str]:
        """The columns needed to determine the owner of a row."""
        return [] if self.column is None else [self.column]

    def mask(self, table: pa.Table, ids: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Select the owned rows of the table, given the ids (B,): (B,) bool."""
        return self.marked(*self.marks(table, np.asarray(ids), np.zeros(0)))

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """Return the marks of the table's rows, the same for all owners."""
        drawn = _draws(np.asarray(ids), self.seed)
        if self.column is None:
            return range(self.count), self._owner_of(drawn, None)
        values, codes = indexed(table[self.column])
        owner = np.zeros(len(table), dtype=np.int64)
        for code in np.unique(codes):
            rows = codes == code
            owner[rows] = self._owner_of(drawn[rows], text(values[code]))
        return range(self.count), owner

    def shares(self, label: str | None = None) -> Floats:
        """Return the share of each owner in rows of a label, (count,)."""
        return shares_of(self.kind, self.count, self.number, self.classes, self.seed, label)

    def _owner_of(self, drawn: Floats, label: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
        bounds = self.shares(label).cumsum()
        # Rounding may leave the last bound below 1: the owner of the last share above 0 gets the rest.
        last = int(np.flatnonzero(self.shares(label))[-1])
        return np.minimum(np.searchsorted(bounds, drawn, side="right"), last)


@dataclass(frozen=True)
class ByTime(Numbered):
    """Rows of every `count`-th span of time, starting with number `index`; spans begin at multiples of `span` since
    1970.

    Example:
        >>> table, times = pa.table({"at": [0, 0, 0]}), np.array([5, 15, 25])
        >>> ByTime(0, 2, "at", span=10).marks(table, np.arange(3), times)[1]
        array([0, 1, 0])
    """

    index: int
    count: int
    column: str
    span: int

    @property
    def columns(self) -> list[str]:
        """The columns needed to determine the owner of a row."""
        return [self.column]

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """Return the marks of the table's rows, the same for all owners."""
        return range(self.count), times // self.span % self.count


@lru_cache(maxsize=4096)
def shares_of(kind: str, count: int, number: float, classes: tuple[str, ...], seed: int, label: str | None) -> Floats:
    """Return the share of each of `count` owners in the rows of a label, (count,); the shares sum to 1.

    Args:
        kind: "iid": equal shares. "quantity": shares drawn once from Dir(number), for all labels. "dirichlet": shares
            drawn
            from Dir(number) separately for each label. "labels": each owner has `number` labels, and the owners of a
            label
            have equal shares. "shards": labels are cut into count * number shards, with numbers of shards as equal as
            possible, and each owner has `number` shards, possibly two of one label.
        count: The number of owners.
        number: The argument of `kind`.
        classes: The labels; for a label that is not among them, all owners have equal shares, so that one of them
            reports
            such rows.
        seed: The seed.
        label: The label.

    Example:
        >>> shares_of("labels", 4, 1, ("a", "b"), 0, "a").tolist()
        [0.0, 0.5, 0.5, 0.0]
    """
    even = np.full(count, 1.0 / count)
    if kind == "quantity":
        return _generator(seed, kind).dirichlet(np.full(count, number))
    if kind == "dirichlet":
        return _generator(seed, f"{kind} of {label}").dirichlet(np.full(count, number))
    if kind in ("labels", "shards") and label in classes:
        held = _labels_held(kind, count, int(number), classes, seed)[:, classes.index(label)]
        return held / held.sum() if held.any() else held
    return even


@lru_cache(maxsize=64)
def _labels_held(kind: str, count: int, each: int, classes: tuple[str, ...], seed: int) -> Floats:
    """Return the number of parts of each label that each owner has, (count, labels)."""
    draw, held = _generator(seed, kind), np.zeros((count, len(classes)))
    if kind == "shards":
        labels = draw.permutation(np.arange(count * each) % len(classes))
        np.add.at(held, (np.arange(count).repeat(each), labels), 1.0)
        return held
    for owner in range(count):
        # Labels with the fewest owners come first, in random order, so all labels have similar numbers of owners.
        taken = np.lexsort((draw.random(len(classes)), held.sum(0)))[:each]
        held[owner, taken] = 1.0
    return held


def _generator(seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _draws(ids: np.ndarray[Any, Any], seed: int) -> Floats:
    """Return a number in [0, 1) for each id (B,): splitmix64 of the id and the seed (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        key = int.from_bytes(hashlib.blake2b(f"{seed} rows".encode(), digest_size=8).digest(), "little")
        z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
