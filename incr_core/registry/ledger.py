"""Which rows are in which version; every row in exactly one.

The ledger is a table with an entry for each (version, participant, fragment), readable by any tool:

    version int64, increment int64, participant text, fragment text (its path),
    ranges list<struct<start, stop>> (offsets in the fragment, stop excluded), rows int64

`Coverage` is the same knowledge reduced to what the law needs: the rows learned so far, as sorted intervals
that grow together again as gaps fill, so checking one commit does not read the commits before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from incr_core.data import OFFSET_BITS, ranges
from incr_core.errors import CheckpointError

__all__ = ["SCHEMA", "Coverage", "check", "count", "entry_table", "flat", "rows_of"]

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
    """Entries for the rows `ids` (n,) that one participant learned for one version.

    `fragments` gives the path of a fragment number.

    >>> from incr_core.data import row_ids
    >>> table = entry_table(3, "local", row_ids(0, 10, 15), ["2013-01-01.parquet"], increment=7)
    >>> table["fragment"][0].as_py(), table["ranges"][0].as_py(), count(table)
    ('2013-01-01.parquet', [{'start': 10, 'stop': 15}], 5)
    """
    found = ranges(ids)
    parts = [(fragments[number], pairs) for number, pairs in sorted(found.items())]
    pairs = np.array([pair for _, pairs in parts for pair in pairs], np.int64).reshape(-1, 2)
    lengths = [len(pairs) for _, pairs in parts]
    if len(ids) != np.sum(pairs[:, 1] - pairs[:, 0]):
        repeated = int(_first_repeated(ids))
        path = fragments[repeated >> OFFSET_BITS]
        raise CheckpointError(
            f"ledger: row {repeated & _MASK} of {path} comes twice from {participant} for version {version}; "
            "give every row to a learner once"
        )
    return pa.table(
        {
            "version": np.full(len(parts), version, np.int64),
            "increment": np.full(len(parts), increment, np.int64),
            "participant": pa.array([participant] * len(parts), pa.string()),
            "fragment": pa.array([fragment for fragment, _ in parts], pa.string()),
            "ranges": _lists(lengths, pairs),
            "rows": np.array([sum(stop - start for start, stop in pairs) for _, pairs in parts], np.int64),
        },
        schema=SCHEMA,
    )


def count(table: pa.Table) -> int:
    """How many rows the entries hold.

    >>> count(SCHEMA.empty_table())
    0
    """
    return int(np.sum(table["rows"].to_numpy()))


def rows_of(table: pa.Table, version: int) -> dict[str, list[tuple[int, int]]]:
    """The rows of one version, over all participants: fragment -> sorted (start, stop).

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
    """Refuse a ledger in which a row occurs twice, naming the row and where it occurs.

    >>> from incr_core.data import row_ids
    >>> first = entry_table(1, "local", row_ids(0, 0, 9), ["a.parquet"], increment=0)
    >>> again = entry_table(2, "local", row_ids(0, 8, 12), ["a.parquet"], increment=1)
    >>> check(pa.concat_tables([first, again]))
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: ledger: row 8 of a.parquet is learned twice: by local in version 1, ...
    """
    Coverage().extended(table)


# A row's key puts all fragments on one line: code of the fragment, then the offset. Row ids do the same with
# the stream's fragment numbers; codes are ours, so that a ledger read back needs no stream.


_MASK = (1 << OFFSET_BITS) - 1


@dataclass(frozen=True)
class Coverage:
    """The rows learned so far: sorted, disjoint intervals of row keys.

    >>> from incr_core.data import row_ids
    >>> part = entry_table(1, "local", row_ids(0, 0, 9), ["a.parquet"], increment=0)
    >>> covered = Coverage().extended(part)
    >>> covered.rows
    9
    >>> covered.extended(part)
    Traceback (most recent call last):
    ...
    incr_core.errors.CheckpointError: ledger: row 0 of a.parquet is learned twice: ...
    """

    starts: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    stops: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    codes: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows are covered."""
        return int(np.sum(self.stops - self.starts))

    def extended(self, part: pa.Table) -> Coverage:
        """The coverage with some entries added; raises CheckpointError when a row is already in it."""
        codes = dict(self.codes)
        entry, start, stop = flat(part)
        code = [codes.setdefault(fragment, len(codes)) for fragment in part["fragment"].to_pylist()]
        base = np.array(code, np.int64)[entry] << OFFSET_BITS
        starts = np.concatenate([self.starts, base + start])
        stops = np.concatenate([self.stops, base + stop])
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
        repeats = np.flatnonzero(stops[:-1] > starts[1:])
        if len(repeats):
            row = int(starts[repeats[0] + 1])
            fragment = next(name for name, code in codes.items() if code == row >> OFFSET_BITS)
            raise _learned_twice(fragment, row & _MASK, part)
        first = np.ones(len(starts), bool)
        first[1:] = starts[1:] > stops[:-1]
        last = np.roll(first, -1)
        return Coverage(starts[first], stops[last], codes)


def _learned_twice(fragment: str, offset: int, part: pa.Table) -> CheckpointError:
    entry, start, stop = flat(part)
    versions, participants = part["version"].to_pylist(), part["participant"].to_pylist()
    fragments = part["fragment"].to_pylist()
    holders = [i for i in entry[(start <= offset) & (offset < stop)] if fragments[i] == fragment]
    where = ", ".join(f"by {participants[i]} in version {versions[i]}" for i in holders)
    return CheckpointError(
        f"ledger: row {offset} of {fragment} is learned twice: {where}; every row belongs to exactly one "
        "version; resume from the last commit, or start a new run directory"
    )


def _first_repeated(ids: Tensor) -> Tensor:
    ordered = ids.sort().values
    return ordered[1:][ordered[1:] == ordered[:-1]][0]


def flat(table: pa.Table) -> tuple[Ints, Ints, Ints]:
    """Which entry each range belongs to, its start and its stop; empty ranges left out.

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


def _lists(lengths: Sequence[int], pairs: Ints) -> pa.Array:
    """A list of (start, stop) per entry, from all pairs (n, 2) in a row."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    names = SCHEMA.field("ranges").type.value_type
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.StructArray.from_arrays([pa.array(pairs[:, 0]), pa.array(pairs[:, 1])], fields=list(names)),
    )
