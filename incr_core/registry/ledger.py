"""The ledger: the rows of each version; every row is in exactly one.

The ledger is a table with an entry for each (version, participant, fragment), readable by any tool:

    version int64, increment int64, participant text, fragment text (its path),
    ranges list<struct<start, stop>> (offsets in the fragment, stop excluded), rows int64

`Coverage` contains only the data needed to check the law: the rows learned so far, as sorted intervals of each fragment
that merge when gaps are filled, so the check of a commit does not read earlier commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from incr_core.data import OFFSET_BITS
from incr_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SCHEMA", "Coverage", "Intervals", "check", "count", "entries_table", "entry_table", "flat", "rows_of"]

SCHEMA = pa.schema(
    [
        ("version", pa.int64()),
        ("increment", pa.int64()),
        ("participant", pa.string()),
        ("fragment", pa.string()),
        ("ranges", pa.list_(pa.struct([("start", pa.int64()), ("stop", pa.int64())]))),
        ("rows", pa.int64()),
    ]
)

Ints = npt.NDArray[np.int64]


def entry_table(
    version: int,
    participant: str,
    ids: Tensor,
    fragments: Mapping[int, str] | Sequence[str],
    *,
    increment: int,
) -> pa.Table:
    """Return entries for the rows `ids` (n,) that one participant learned for one version.

    Args:
        version: The version.
        participant: The participant.
        ids: The ids of the rows.
        fragments: The path of each fragment, by number.
        increment: The increment.

    Example:
        >>> from incr_core.data import row_ids
        >>> table = entry_table(3, "local", row_ids(0, 10, 15), ["2013-01-01.parquet"], increment=7)
        >>> table["fragment"][0].as_py(), table["ranges"][0].as_py(), count(table)
        ('2013-01-01.parquet', [{'start': 10, 'stop': 15}], 5)
    """
    return entries_table(version, {participant: ids}, fragments, increment=increment)


def entries_table(
    version: int,
    learned: Mapping[str, Tensor],
    fragments: Mapping[int, str] | Sequence[str],
    *,
    increment: int,
) -> pa.Table:
    """Return the entries of several participants, one after the other; efficient for thousands of participants.

    Args:
        version: The version.
        learned: Participant -> ids of its rows (n,).
        fragments: The path of each fragment, by number.
        increment: The increment.

    Example:
        >>> from incr_core.data import row_ids
        >>> learned = {"one": row_ids(0, 0, 4), "other": row_ids(0, 4, 6)}
        >>> table = entries_table(3, learned, ["a.parquet"], increment=7)
        >>> list(zip(table["participant"].to_pylist(), table["rows"].to_pylist()))
        [('one', 4), ('other', 2)]
    """
    names = list(learned)
    parts = [np.sort(ids.numpy()) for ids in learned.values()]
    rows = np.concatenate([np.empty(0, np.int64), *parts])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    step, same = np.diff(rows), np.diff(owner) == 0
    if len(repeated := np.flatnonzero((step == 0) & same)):
        row, name = int(rows[repeated[0]]), names[owner[repeated[0]]]
        raise CheckpointError(
            f"ledger: row {row & _MASK} of {fragments[row >> OFFSET_BITS]} comes twice from {name} for version "
            f"{version}; give every row to a learner once"
        )
    number = rows >> OFFSET_BITS
    elsewhere = np.ones(len(rows), bool)  # another participant, or another fragment, than that of the row before
    elsewhere[1:] = ~same | (np.diff(number) != 0)
    first = elsewhere.copy()
    first[1:] |= step != 1
    last, starts = np.roll(first, -1), np.flatnonzero(elsewhere)
    lengths: Ints = np.diff(np.append(np.flatnonzero(elsewhere[first]), np.count_nonzero(first))).astype(np.int64)
    return pa.table(
        {
            "version": np.full(len(starts), version, np.int64),
            "increment": np.full(len(starts), increment, np.int64),
            "participant": pa.array([names[code] for code in owner[starts].tolist()], pa.string()),
            "fragment": pa.array([fragments[code] for code in number[starts].tolist()], pa.string()),
            "ranges": _lists(lengths, rows[first] & _MASK, (rows[last] & _MASK) + 1),
            "rows": np.diff(np.append(starts, len(rows))),
        },
        schema=SCHEMA,
    )


def count(table: pa.Table) -> int:
    """Return the number of rows in the entries.

    Example:
        >>> count(SCHEMA.empty_table())
        0
    """
    return int(np.sum(table["rows"].to_numpy()))


def rows_of(table: pa.Table, version: int) -> dict[str, list[tuple[int, int]]]:
    """Return the rows of one version, over all participants: fragment -> sorted (start, stop).

    Example:
        >>> from incr_core.data import row_ids
        >>> rows_of(entry_table(3, "local", row_ids(0, 10, 15), ["a.parquet"], increment=7), 3)
        {'a.parquet': [(10, 15)]}
    """
    chosen = table.filter(np.equal(table["version"].to_numpy(), version))
    found: dict[str, list[tuple[int, int]]] = {}
    for fragment, pairs in zip(chosen["fragment"].to_pylist(), chosen["ranges"].to_pylist(), strict=True):
        found.setdefault(fragment, []).extend((pair["start"], pair["stop"]) for pair in pairs)
    return {fragment: sorted(pairs) for fragment, pairs in found.items()}


def check(table: pa.Table) -> None:
    """Refuse a ledger in which a row occurs twice, naming the row and its entries.

    Example:
        >>> from incr_core.data import row_ids
        >>> first = entry_table(1, "local", row_ids(0, 0, 9), ["a.parquet"], increment=0)
        >>> again = entry_table(2, "local", row_ids(0, 8, 12), ["a.parquet"], increment=1)
        >>> check(pa.concat_tables([first, again]))
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: ledger: row 8 of a.parquet is learned twice: by local in version 1, ...
    """
    Coverage().add(table)


_MASK = (1 << OFFSET_BITS) - 1

Intervals = dict[str, tuple[Ints, Ints]]
"""Fragment -> starts and stops of sorted, disjoint intervals of its rows."""


class Coverage:
    """The rows learned so far, as intervals of each fragment; adding rows takes time in proportion to these intervals.

    Example:
        >>> from incr_core.data import row_ids
        >>> table = entry_table(1, "local", row_ids(0, 0, 9), ["a.parquet"], increment=0)
        >>> covered = Coverage()
        >>> covered.add(table)
        >>> covered.rows
        9
        >>> covered.add(table)
        Traceback (most recent call last):
        ...
        incr_core.errors.CheckpointError: ledger: row 0 of a.parquet is learned twice: ...
    """

    def __init__(self) -> None:
        self.intervals: Intervals = {}

    @property
    def rows(self) -> int:
        """The number of covered rows."""
        return sum(int(np.sum(stops - starts)) for starts, stops in self.intervals.values())

    def add(self, table: pa.Table) -> None:
        """Add entries; raise CheckpointError, without any change, if a row was added before."""
        self.take(self.with_rows(table))

    def with_rows(self, table: pa.Table) -> Intervals:
        """Return the intervals of the entries' fragments after adding the entries, for `take`; raise CheckpointError as
        above.
        """
        entry, start, stop = flat(table)
        names = table["fragment"].combine_chunks().dictionary_encode()
        code = names.indices.to_numpy()[entry]
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(names.dictionary) + 1))
        found: Intervals = {}
        for number, fragment in enumerate(names.dictionary.to_pylist()):
            mine = order[bounds[number] : bounds[number + 1]]
            found[fragment] = self._merged(fragment, start[mine], stop[mine], table)
        return found

    def take(self, intervals: Intervals) -> None:
        """Replace the intervals of fragments by those that `with_rows` returned."""
        self.intervals |= intervals

    def _merged(self, fragment: str, starts: Ints, stops: Ints, table: pa.Table) -> tuple[Ints, Ints]:
        before = self.intervals.get(fragment)
        if before is not None:
            starts, stops = np.concatenate([before[0], starts]), np.concatenate([before[1], stops])
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
        repeats = np.flatnonzero(stops[:-1] > starts[1:])
        if len(repeats):
            raise _learned_twice(fragment, int(starts[repeats[0] + 1]), table)
        first = np.ones(len(starts), bool)
        first[1:] = starts[1:] > stops[:-1]
        return starts[first], stops[np.roll(first, -1)]


def _learned_twice(fragment: str, offset: int, table: pa.Table) -> CheckpointError:
    entry, start, stop = flat(table)
    versions, participants = table["version"].to_pylist(), table["participant"].to_pylist()
    fragments = table["fragment"].to_pylist()
    holders = [i for i in entry[(start <= offset) & (offset < stop)] if fragments[i] == fragment]
    where = ", ".join(f"by {participants[i]} in version {versions[i]}" for i in holders)
    return CheckpointError(
        f"ledger: row {offset} of {fragment} is learned twice: {where}; every row belongs to exactly one "
        "version; resume from the last commit, or start a new run directory"
    )


def flat(table: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Return the entry of each range, its start and its stop, without empty ranges.

    Example:
        >>> from incr_core.data import row_ids
        >>> flat(entry_table(3, "local", row_ids(0, 10, 15), ["a.parquet"], increment=7))
        (array([0]), array([10]), array([15]))
    """
    lists = table["ranges"].combine_chunks()
    pairs = lists.flatten()
    start, stop = (pairs.field(name).to_numpy() for name in ("start", "stop"))
    entry = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
    full = stop > start
    return entry[full], start[full], stop[full]


def _lists(lengths: Ints, starts: Ints, stops: Ints) -> pa.Array:
    """Return a list of (start, stop) per entry, given the concatenated starts and stops (n,)."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    names = SCHEMA.field("ranges").type.value_type
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.StructArray.from_arrays([pa.array(starts), pa.array(stops)], fields=list(names)),
    )
