"""New rows are encoded as the stream would have encoded them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.data import times as clock
from incr_core.data.encoding import Encoder
from incr_core.data.rates import Rate
from incr_core.data.timeline import encode_file, encode_table
from incr_core.errors import StreamError
from tests.support.streams import HOUR, RATES, encoder, flights, numeric, stream, write


def test_prediction_of_a_file_sees_what_the_stream_would_have_seen(tmp_path: Path) -> None:
    """The features of rows after the last commit equal those the stream gives them itself."""
    table = flights(300)
    moment = pa.scalar(1_356_998_400 * clock.SECOND + 24 * HOUR, pa.timestamp("us"))
    before = pa.compute.less(table["at"], moment)
    early, late = table.filter(before), table.filter(pa.compute.invert(before))
    source = stream(write(tmp_path / "whole", pa.concat_tables([early, late]), 4))
    steps = source.increments()
    for step in steps:
        if step.tick.name == "2013-01-01 23:00":
            break
    history = source.history()
    steps.close()
    path = tmp_path / "new.parquet"
    pq.write_table(late.slice(0, 5), path)
    found = encode_file(path, encoder(), RATES, history, predict_at=source.predict_at)
    rest = list(stream(tmp_path / "whole").increments(step.cursor))
    expected = torch.cat([numeric(s.arriving) for s in rest])[:5]
    first_only = late["at"][0].as_py()
    assert torch.equal(numeric(found.batch)[0].nan_to_num(-1), expected[0].nan_to_num(-1)), first_only
    assert found.offsets.tolist() == [0, 1, 2, 3, 4]


def test_an_evaluated_file_with_bad_rows_says_which(tmp_path: Path) -> None:
    table = flights(10)
    table = table.set_column(2, "x", pa.array([1.0, float("nan"), *[0.0] * 8]))
    table = table.set_column(0, "at", pa.array(table["at"].to_numpy(), mask=np.arange(10) == 4))
    path = tmp_path / "new.parquet"
    pq.write_table(table, path)
    source = stream(write(tmp_path / "old", flights(10), 1))
    found = encode_file(path, encoder(), RATES, None, predict_at=source.predict_at, labelled=True)
    assert [row.offset for row in found.bad] == [1, 4]
    assert found.offsets.tolist() == [0, 2, 3, 5, 6, 7, 8, 9]
    with pytest.raises(StreamError, match=r"missing\.parquet: expected a file of rows, got nothing there"):
        encode_file(tmp_path / "missing.parquet", encoder())


def test_a_time_that_python_cannot_hold_leaves_out_its_row() -> None:
    encoder = Encoder("y", ["x"], [], objective="regression", classes=None)
    at = pa.array([0, 2**62], pa.timestamp("s"))
    found = encode_table(pa.table({"x": [1.0, 2.0], "at": at}), "here", encoder, [Rate([], "1h")], predict_at="at")
    assert [(row.offset, row.reason) for row in found.bad] == [(1, "expected a time, got outside the years 1 to 9999")]
