"""A run whose directory is at an address: the bits of one in a folder, and all that one does with a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from incr_core.commands.audit import audit
from incr_core.job import Job
from incr_core.runs import Run, run


def test_a_run_has_the_bits_of_one_in_a_folder(tmp_path: Path, place: str, small_job: Callable[..., Job]) -> None:
    here = run(small_job(), tmp_path / "here")
    there = run(small_job(), place)
    assert there.summary.model_sha256 == here.summary.model_sha256
    assert there.table("ledger").equals(here.table("ledger"))
    assert [version.model_sha256 for version in there.versions] == [version.model_sha256 for version in here.versions]
    assert audit(place).holds
    people: pa.Table = pa.table({"height": [180.0], "weight": [70.0], "colour": ["red"]})
    assert there.champion.predict(people).equals(here.champion.predict(people))
    assert Run(place).summary.rows_learned == 470
