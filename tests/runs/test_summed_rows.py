"""Rows that are erased leave the sums of a head, so what is learned on is what it would be without them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core.job import Job
from incr_core.registry import RunDirectory
from incr_core.runs import erase, run

DAYS = 4


def write(folder: Path, days: range) -> None:
    folder.mkdir(exist_ok=True)
    for day in days:
        generator = np.random.default_rng(day)
        x = generator.uniform(-1, 1, (60, 3))
        columns = {f"x{at}": x[:, at] for at in range(3)}
        pq.write_table(pa.table({**columns, "y": (x.sum(1) > 0.1 * day).astype(int)}), folder / f"{day}.parquet")


def job(folder: Path, **head: Any) -> Job:
    document = {
        "stream": {"path": str(folder), "order": "file", "settle": "0s"},
        "features": {
            "label": "y",
            "numeric": ["x0", "x1", "x2"],
            "classes": [0, 1],
            "ranges": {f"x{at}": [-1, 1] for at in range(3)},
        },
        "learner": {"objective": "binary", "head": {"name": "ridge", "features": 50, **head}},
    }
    return Job.from_document(document).resolved()


def rows(*asked: tuple[int, range]) -> pa.Table:
    files = [f"{day}.parquet" for day, offsets in asked for _ in offsets]
    return pa.table({"fragment": files, "offset": [offset for _, offsets in asked for offset in offsets]})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = RunDirectory.open(folder)
    latest = found.latest()
    assert latest is not None
    return {name: value for name, value in found.load(latest)[0].items() if "ridge" in name}


def without(folder: Path, asked: pa.Table) -> None:
    """The same files without these rows."""
    gone = set(zip(asked["fragment"].to_pylist(), asked["offset"].to_pylist(), strict=True))
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.filter([(file.name, at) not in gone for at in range(len(table))]), file)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(value, other[name], rtol=1e-6, atol=1e-9) for name, value in one.items())


ASKED = rows((0, range(0, 60, 2)), (2, range(10, 30)))


@pytest.mark.slow
def test_a_run_goes_on_as_if_the_rows_had_never_come(tmp_path: Path) -> None:
    write(tmp_path / "data", range(DAYS - 1))
    run(job(tmp_path / "data"), tmp_path / "run")
    found = erase(tmp_path / "run", ASKED)
    assert (found["subtracted"], found["summed"]) == (50, 0)
    again = erase(tmp_path / "run", ASKED)  # asked for twice, taken out once
    assert (again["subtracted"], again["summed"]) == (0, 0)
    before = weights(tmp_path / "run")
    write(tmp_path / "data", range(DAYS - 1, DAYS))
    run(job(tmp_path / "data"), tmp_path / "run")
    assert erase(tmp_path / "run", ASKED)["subtracted"] == 0
    shutil.copytree(tmp_path / "data", tmp_path / "less")
    without(tmp_path / "less", ASKED)
    run(job(tmp_path / "less"), tmp_path / "never")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "never"))
    assert not same(before, weights(tmp_path / "run"))


@pytest.mark.slow
def test_a_kill_in_the_midst_of_it_takes_nothing_out_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", range(DAYS - 1))
    run(job(tmp_path / "data"), tmp_path / "run")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:  # when all states are written, and nothing is noted yet
        broken.setattr("incr_core.runs._summed_rows.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            erase(tmp_path / "run", ASKED)
    assert erase(tmp_path / "run", ASKED)["subtracted"] == 50
    write(tmp_path / "data", range(DAYS - 1, DAYS))
    run(job(tmp_path / "data"), tmp_path / "run")
    shutil.copytree(tmp_path / "data", tmp_path / "less")
    without(tmp_path / "less", ASKED)
    run(job(tmp_path / "less"), tmp_path / "never")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "never"))


def test_rows_whose_files_are_gone_and_sums_that_fade_are_told_of(tmp_path: Path) -> None:
    write(tmp_path / "data", range(DAYS - 1))
    run(job(tmp_path / "data"), tmp_path / "run")
    (tmp_path / "data" / "0.parquet").unlink()
    found = erase(tmp_path / "run", ASKED)
    assert (found["subtracted"], found["summed"]) == (20, 30)
    write(tmp_path / "data", range(DAYS - 1))
    run(job(tmp_path / "data", decay=0.01), tmp_path / "fades")
    assert erase(tmp_path / "fades", ASKED)["summed"] == 50
