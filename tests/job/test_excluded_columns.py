"""A column that is left out by name has to be there, whether or not the features are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from incr_core.errors import StreamError
from incr_core.job import Job
from tests.support.made_up import made_up


@pytest.mark.parametrize("named", [{}, {"numeric": ["height"]}])
def test_a_column_that_is_not_there_cannot_be_left_out(tmp_path: Path, named: dict[str, Any]) -> None:
    pq.write_table(made_up(20), tmp_path / "rows.parquet")

    def job(exclude: list[str]) -> Job:
        return Job.from_document(
            {
                "stream": {"path": str(tmp_path / "rows.parquet")},
                "features": {"label": "tall", "exclude": exclude, **named},
                "learner": {"objective": "binary"},
            }
        )

    with pytest.raises(StreamError, match=r'features\.exclude: expected a column "wieght", .* nearest is "weight"'):
        job(["wieght"]).resolved()
    resolved = job(["weight"]).resolved()
    assert "weight" not in resolved.features.numeric
    assert resolved.resolved().features == resolved.features
