"""Keys of rows, and the keys learned recently, so that a row delivered twice is learned once.

A key is hashed to 64 bits. A row is a duplicate if an earlier row with the same key is learned within the window: a
duration, or a number of rows of the stream. Each copy replaces the one before, so a key that recurs is kept. With n
keys in the window, the probability that a row is wrongly classified as a duplicate is n / 2**64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from incr_core.errors import StreamError

__all__ = ["NO_KEY", "Hashes", "Learned", "Run", "keys_of"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

NO_KEY = np.uint64(0)
"""The key of a row whose key columns are all null, which is never a duplicate."""

BYTES = 1 << 20
"""The bytes of text hashed at a time."""


def keys_of(table: pa.Table, columns: Sequence[str], place: str) -> Hashes:
    """Return the key of each row (B,), from one or more columns; rows with equal text have equal keys, whatever the
    types.

    Example:
        >>> one = pa.table({"id": [7, None, 8], "shop": ["a", None, None]})
        >>> keys = keys_of(one, ["id", "shop"], "day.csv")
        >>> again = keys_of(pa.table({"id": ["7"], "shop": ["a"]}), ["id", "shop"], "day.jsonl")
        >>> bool(keys[0] == again[0]), bool(keys[1] == NO_KEY), bool(keys[2] == NO_KEY)
        (True, True, False)
    """
    keys = np.zeros(len(table), dtype=np.uint64)
    missing = np.ones(len(table), dtype=bool)
    for name in columns:
        column, null = _bytes_in(table[name], f"stream.key.{name} in {place}")
        # Multiply by an odd number before adding the next column; otherwise (a, b) and (b, a) would have the same key.
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + np.where(null, np.uint64(1), _hashes(column))
        missing &= null
    keys = _mixed(keys)
    keys[keys == NO_KEY] = np.uint64(1)
    keys[missing] = NO_KEY
    return keys


def _bytes_in(column: pa.ChunkedArray, place: str) -> tuple[pa.Array, Mask]:
    """Return a column as the bytes of its text (B,), and a mask of its nulls."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = pc.cast(column, kind.value_type), kind.value_type
    try:
        if pa.types.is_timestamp(kind):
            column = pc.cast(column, pa.timestamp("ns"), safe=False)
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            column = pc.cast(column, pa.large_string())
        column = pc.cast(column, pa.large_binary()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise StreamError(f"{place}: expected text, numbers or times, got {kind}; name another column") from None
    array = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    return array, array.is_null().to_numpy(zero_copy_only=False)


def _hashes(column: pa.Array) -> Hashes:
    """Return a hash of each row's bytes (B,): the sum, mod 2**64, of a mixed number for each byte and its position."""
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    hashes = _mixed(lengths.astype(np.uint64) + np.uint64(0x51_7C_C1_B7_27_22_0A_95))
    data = column.buffers()[2]
    if data is None or not len(offsets) or offsets[-1] == offsets[0]:
        return hashes
    text = np.frombuffer(data, dtype=np.uint8)
    first = 0
    while first < len(lengths):
        last = max(int(np.searchsorted(offsets, offsets[first] + BYTES, side="right")) - 1, first + 1)
        # Nulls may cover bytes that belong to no row; their hashes are not used.
        begin, end = int(offsets[first]), int(offsets[last])
        place = np.arange(begin, end) - np.repeat(offsets[first:last], lengths[first:last])
        numbers = _mixed((place.astype(np.uint64) << np.uint64(8)) + text[begin:end])
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(numbers, dtype=np.uint64)])
        hashes[first:last] += sums[offsets[first + 1 : last + 1] - begin] - sums[offsets[first:last] - begin]
        first = last
    return hashes


def _mixed(values: Hashes) -> Hashes:
    """Mix the bits of each value (n,): the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Hashes = values ^ (values >> np.uint64(31))
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """Distinct keys (k,), ascending, and the place or time at which each was last learned (k,)."""

    keys: Hashes
    at: Ints

    @classmethod
    def of(cls, keys: Hashes, at: Ints) -> Run:
        """Create a run from keys in any order, each with the last of its places."""
        order = np.lexsort((at, keys))
        keys, at = keys[order], at[order]
        last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, dtype=bool)
        return cls(keys[last], at[last])

    def since(self, oldest: int) -> Run:
        """Return the keys learned at `oldest` or later."""
        kept = self.at >= oldest
        return self if kept.all() else Run(self.keys[kept], self.at[kept])


@dataclass(frozen=True, slots=True)
class Learned:
    """The keys learned within a window; immutable.

    Attributes:
        window: The window, in microseconds if `timed`, otherwise in rows.
        timed: Whether the window is a duration.
        rows: The number of rows of the stream so far.
        runs: Runs of keys, each at most half the size of the one before, so there are few to search and keys move
            rarely.

    Example:
        >>> learned, rows = Learned(window=3, timed=False), np.ones(4, dtype=bool)
        >>> keys = np.array([5, 6, 5, 7], dtype=np.uint64)
        >>> double, learned = learned.taking(keys, np.arange(4), np.zeros(4, dtype=np.int64), rows, 4)
        >>> double
        array([False, False,  True, False])
        >>> learned.taking(keys[:2], np.arange(2), np.zeros(2, dtype=np.int64), rows[:2], 2)[0]  # 5: 2 rows ago, 6: 4
        array([ True, False])
    """

    window: int
    timed: bool
    rows: int = 0
    runs: tuple[Run, ...] = ()

    def taking(self, keys: Hashes, places: Ints, times: Ints, learns: Mask, total: int) -> tuple[Mask, Learned]:
        """Return which rows are duplicates (B,), and the state after these rows.

        Args:
            keys: The keys of the rows, in order of arrival (B,).
            places: Their places among all `total` rows (B,).
            times: Their times (B,).
            learns: Whether each is learned (B,); a row whose label never comes is not.
            total: The number of rows, including those that cannot be used.
        """
        at = times if self.timed else self.rows + places
        seen = np.argsort(keys, kind="stable")
        ordered, moments = keys[seen], at[seen]
        index = np.arange(len(keys))
        first = np.append(True, ordered[1:] != ordered[:-1])[: len(keys)]
        # The last learned row before each with the same key; -1 if there is none.
        latest = np.maximum.accumulate(np.where(learns[seen], index, -1)) if len(keys) else index
        before = np.append(-1, latest[:-1])[: len(keys)]
        begins = np.maximum.accumulate(np.where(first, index, 0)) if len(keys) else index
        inside = before >= begins
        earlier = np.where(inside, moments[before], np.iinfo(np.int64).min)
        for run in self.runs:
            found = np.searchsorted(run.keys, ordered)
            there = found < len(run.keys)
            there[there] = run.keys[found[there]] == ordered[there]
            earlier[there] = np.maximum(earlier[there], run.at[found[there]])
        known = earlier > np.iinfo(np.int64).min
        double = np.zeros(len(keys), dtype=bool)
        double[seen] = known & (moments - np.where(known, earlier, moments) <= self.window) & (ordered != NO_KEY)
        new = learns & (keys != NO_KEY)
        oldest = (int(at.min()) if len(at) else None) if self.timed else self.rows
        return double, Learned(
            self.window, self.timed, self.rows + total, self._with(Run.of(keys[new], at[new]), oldest)
        )

    def _with(self, run: Run, now: int | None) -> tuple[Run, ...]:
        runs = self.runs
        while runs and len(runs[-1].keys) <= 2 * len(run.keys):
            one = runs[-1] if now is None else runs[-1].since(now - self.window)
            run = Run.of(np.concatenate([one.keys, run.keys]), np.concatenate([one.at, run.at]))
            runs = runs[:-1]
        return (*runs, run) if len(run.keys) else runs

    def state_dict(self) -> dict[str, Any]:
        """Return the state a resumed stream needs: the hashes of the keys, and when each was learned."""
        keys = np.concatenate([np.zeros(0, dtype=np.uint64), *(run.keys for run in self.runs)])
        at = np.concatenate([np.zeros(0, dtype=np.int64), *(run.at for run in self.runs)])
        whole = Run.of(keys, at)
        if len(whole.at):
            whole = whole.since((int(whole.at.max()) if self.timed else self.rows) - self.window)
        return {
            "keys": torch.from_numpy(whole.keys.view(np.int64).copy()),
            "at": torch.from_numpy(whole.at.copy()),
            "rows": self.rows,
        }

    def resumed(self, state: dict[str, Any] | None) -> Learned:
        """Return a copy with the keys of a `state_dict`, or without any if it is None."""
        if state is None:
            return self
        run = Run(state["keys"].numpy().view(np.uint64), state["at"].numpy())
        return Learned(self.window, self.timed, int(state["rows"]), (run,) if len(run.keys) else ())
