"""Partitions that are drawn: which owner a row has follows from a seed, the row's own number, and its label or time.

Nothing is counted and no later row is looked at, so a stream is dealt alike however often it is resumed and whoever
reads it. Shares are met in the mean: of n rows an owner with share p gets n p, give or take sqrt(n p (1 - p)).
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
"""Those whom rows may belong to, and for each row which of them it does (B,)."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


class Numbered:
    """A partition whose owners are numbered: the mark of a row is the number of its owner."""

    index: int

    @property
    def mark(self) -> str | None:
        """What the owner is known by among the marks, as text."""
        return str(self.index)

    def marked(self, values: Sequence[object], codes: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of the rows with these marks are owned, (B,) bool."""
        return np.asarray(codes == self.index)


@dataclass(frozen=True)
class ByDraw(Numbered):
    """The rows that are drawn for owner `index` of `count`, each by the shares that owners have in rows of its label.

    Args:
        index, count: the owner, from 0, and how many there are.
        kind: how shares are found (`shares_of`); number: its argument.
        column: of the labels; None where they do not matter. classes: the labels, as text, where that must be known.
        seed: of shares and draws.

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
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON knows lists

    @property
    def columns(self) -> list[str]:
        """What must be read to tell the owner of a row."""
        return [] if self.column is None else [self.column]

    def mask(self, table: pa.Table, ids: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows of the table, with these ids (B,), are owned, (B,) bool."""
        return self.marked(*self.marks(table, np.asarray(ids), np.zeros(0)))

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """What tells the owners of the table's rows, the same for each of them."""
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
        """The share of each owner in rows of a label, (count,)."""
        return shares_of(self.kind, self.count, self.number, self.classes, self.seed, label)

    def _owner_of(self, drawn: Floats, label: str | None) -> np.ndarray[Any, np.dtype[np.int64]]:
        bounds = self.shares(label).cumsum()
        # Rounding may leave the last bound below 1: who has the last share above 0 has the rest.
        last = int(np.flatnonzero(self.shares(label))[-1])
        return np.minimum(np.searchsorted(bounds, drawn, side="right"), last)


@dataclass(frozen=True)
class ByTime(Numbered):
    """The rows of every `count`-th span of time from the `index`-th on; spans begin at multiples of `span` since 1970.

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
        """What must be read to tell the owner of a row."""
        return [self.column]

    def marks(self, table: pa.Table, ids: Tensor | np.ndarray[Any, Any], times: np.ndarray[Any, Any]) -> Marks:
        """What tells the owners of the table's rows, the same for each of them."""
        return range(self.count), times // self.span % self.count


@lru_cache(maxsize=4096)
def shares_of(kind: str, count: int, number: float, classes: tuple[str, ...], seed: int, label: str | None) -> Floats:
    """The share of each of `count` owners in the rows of a label, (count,); they add up to 1.

    "iid": all alike. "quantity": drawn once from Dir(number), whatever the label. "dirichlet": drawn from Dir(number)
    for each label by itself. "labels": each owner has `number` labels, and those of a label have it alike. "shards":
    labels are cut into count * number shards, as equal in number as can be, and each owner has `number` of them; two
    may be of one label. Of labels that are none of `classes` all have alike: somebody must tell of such rows.

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
    """How many parts of each label each owner has, (count, labels)."""
    draw, held = _generator(seed, kind), np.zeros((count, len(classes)))
    if kind == "shards":
        labels = draw.permutation(np.arange(count * each) % len(classes))
        np.add.at(held, (np.arange(count).repeat(each), labels), 1.0)
        return held
    for owner in range(count):
        # Those that fewest have come first, in an order of chance: so all labels are had alike often.
        taken = np.lexsort((draw.random(len(classes)), held.sum(0)))[:each]
        held[owner, taken] = 1.0
    return held


def _generator(seed: int, purpose: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _draws(ids: np.ndarray[Any, Any], seed: int) -> Floats:
    """A number in [0, 1) for each id (B,): splitmix64 of it and the seed (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        key = int.from_bytes(hashlib.blake2b(f"{seed} rows".encode(), digest_size=8).digest(), "little")
        z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
