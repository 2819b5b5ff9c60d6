"""Row ids: they hold what they are made of, and ranges say the same rows."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from incr_core.data import OFFSET_BITS, ranges, row_ids
from incr_core.data._row_ids import fragment_of, offset_of

addresses = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=60)


@given(st.integers(0, 2**23 - 1), st.integers(0, 2**OFFSET_BITS - 4))
def test_an_id_holds_fragment_and_offset(fragment: int, offset: int) -> None:
    ids = row_ids(fragment, offset, offset + 3)
    assert fragment_of(ids).tolist() == [fragment] * 3
    assert offset_of(ids).tolist() == [offset, offset + 1, offset + 2]


@given(addresses)
def test_ranges_are_sorted_merged_and_hold_the_same_rows(rows: list[tuple[int, int]]) -> None:
    ids = torch.tensor([(fragment << OFFSET_BITS) + offset for fragment, offset in rows], dtype=torch.int64)
    found = ranges(ids)
    assert {(f, o) for f, pairs in found.items() for start, stop in pairs for o in range(start, stop)} == set(rows)
    assert list(found) == sorted(found)
    for pairs in found.values():
        assert all(before[1] < after[0] for before, after in pairwise(pairs))


def test_the_last_row_of_a_fragment_does_not_run_into_the_next() -> None:
    last = 2**OFFSET_BITS - 1
    assert ranges(torch.tensor([last, last + 1])) == {0: [(last, last + 1)], 1: [(0, 1)]}
