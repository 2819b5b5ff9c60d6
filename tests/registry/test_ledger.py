"""Every row in exactly one version: the ledger knows, cheaply."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from incr_core.data import row_ids
from incr_core.errors import CheckpointError
from incr_core.registry.ledger import SCHEMA, Coverage, check, count, entry_table, rows_of

FRAGMENTS = ["a.parquet", "b.parquet", "c.parquet"]

rows = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=20)


def entries(version: int, chosen: set[tuple[int, int]], participant: str = "local") -> pa.Table:
    ids = torch.tensor([(fragment << 40) + offset for fragment, offset in chosen], dtype=torch.int64)
    return entry_table(version, participant, ids, FRAGMENTS, increment=version)


def listed(table: pa.Table, version: int) -> set[tuple[int, int]]:
    return {
        (FRAGMENTS.index(fragment), offset)
        for fragment, pairs in rows_of(table, version).items()
        for start, stop in pairs
        for offset in range(start, stop)
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_the_ledger_is_a_set_of_rows_per_version(versions: list[set[tuple[int, int]]]) -> None:
    tables = [entries(n, chosen) for n, chosen in enumerate(versions)]
    table = pa.concat_tables(tables)
    assert table.schema == SCHEMA
    assert count(table) == sum(map(len, versions))
    assert [listed(table, n) for n in range(len(versions))] == versions

    covered, learned = Coverage(), set[tuple[int, int]]()
    for n, chosen in enumerate(versions):
        if repeated := learned & chosen:
            # Whole or in parts, the same verdict, and the row named is one of those learned twice.
            names = {f"row {offset} of {FRAGMENTS[fragment]} " for fragment, offset in repeated}
            with pytest.raises(CheckpointError) as caught:
                covered.add(tables[n])
            assert any(name in str(caught.value) for name in names)
            with pytest.raises(CheckpointError, match="is learned twice"):
                check(table)
            return
        covered.add(tables[n])
        learned |= chosen
        assert covered.rows == len(learned)
    check(table)


def test_a_row_learned_twice_is_named_with_both_versions() -> None:
    table = pa.concat_tables([entries(1, {(1, 7), (0, 7)}, "AA"), entries(2, {(1, 6), (1, 7), (2, 7)}, "B6")])
    message = r"ledger: row 7 of b.parquet is learned twice: by AA in version 1, by B6 in version 2; every row belongs"
    with pytest.raises(CheckpointError, match=message):
        check(table)


def test_two_participants_of_one_version_may_not_share_a_row() -> None:
    with pytest.raises(CheckpointError, match="by AA in version 1, by B6 in version 1"):
        check(pa.concat_tables([entries(1, {(0, 0)}, "AA"), entries(1, {(0, 0)}, "B6")]))


def test_a_row_given_twice_at_once_is_refused() -> None:
    ids = torch.cat([row_ids(1, 0, 5), row_ids(1, 4, 6)])
    with pytest.raises(CheckpointError, match=r"row 4 of b.parquet comes twice from AA for version 3"):
        entry_table(3, "AA", ids, FRAGMENTS, increment=0)


def test_a_full_fragment_costs_one_interval() -> None:
    """Sixteen participants' rows, interleaved, grow together: the check stays cheap however long the run."""
    order = np.random.default_rng(0).permutation(1600)
    covered = Coverage()
    for version, part in enumerate(np.split(order, 16)):
        covered.add(entry_table(version, "x", torch.from_numpy(part), FRAGMENTS, increment=0))
    [(starts, stops)] = covered.intervals.values()
    assert (starts.tolist(), stops.tolist()) == ([0], [1600])


def test_the_last_row_of_a_fragment_is_not_the_first_of_the_next() -> None:
    last = entry_table(1, "x", row_ids(0, 2**40 - 1, 2**40), FRAGMENTS, increment=0)
    first = entry_table(1, "x", row_ids(1, 0, 1), FRAGMENTS, increment=0)
    check(pa.concat_tables([last, first]))


def test_no_rows_make_no_entries() -> None:
    empty = entry_table(1, "x", torch.empty(0, dtype=torch.int64), [], increment=0)
    assert empty.num_rows == 0
    covered = Coverage()
    covered.add(empty)
    assert covered.rows == 0
