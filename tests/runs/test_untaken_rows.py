"""Rows that a model cannot take: an id without an entry, or what its forward raises at; wherever they turn up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands import cli
from incr_core.commands.audit import audit
from incr_core.errors import BadRows, StreamError
from incr_core.job import Job
from incr_core.runs import Version, run
from incr_core.serving import App, Champion
from tests.support.asked import Asking

MODELS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.entries, self.last = nn.Embedding(10, 4), nn.Linear(4, outputs)

    def forward(self, input_ids):
        return self.last(self.entries(input_ids).mean(1))

class Strict(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.last = nn.Linear(3, outputs)

    def forward(self, x):
        if (x > 50).any():
            raise ValueError("too high\\nfor me")
        return self.last(x)

def words(shape):
    return Words(shape.outputs)

def strict(shape):
    return Strict(shape.outputs)
"""
WORDS = {"factory": "models_of_untaken:words", "inputs": {"input_ids": "t"}}
STRICT = {"factory": "models_of_untaken:strict"}
GOOD = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 1, 2]] * 10


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"t": rows, "y": [at % 2 for at in range(len(rows))]}), path)
    return path


def job_of(folder: Path, model: dict[str, Any], **features: Any) -> Job:
    (folder / "models_of_untaken.py").write_text(MODELS)
    document = {
        "stream": {"path": str(folder / "data"), "every": "file"},
        "features": {"label": "y", "numeric": ["t"], "classes": [0, 1], **features},
        "model": model,
        "learner": {"objective": "binary", "batch_size": 8},
    }
    return Job.from_document(document, place=str(folder / "job.toml")).resolved()


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "models_of_untaken", raising=False)


@pytest.mark.parametrize("model", [WORDS, STRICT], ids=["ids", "raises"])
def test_what_is_asked_refuses_the_row_alone(tmp_path: Path, model: dict[str, Any]) -> None:
    write(tmp_path / "data" / "1.parquet", GOOD)
    run(job_of(tmp_path, model), tmp_path / "run")
    asking = Asking(App(Champion(tmp_path / "run")))
    whole = asking.rows({"t": [1, 2, 3]})[1]["predictions"]
    status, answer = asking.rows({"t": [1, 2, 99]}, {"t": [1, 2, 3]}, {"t": [99, 1, 1]})
    assert (status, [row["row"] for row in answer["refused"]]) == (200, [0, 2])
    assert answer["predictions"] == [None, *whole, None]
    assert asking.rows({"t": [1, 2, 99]})[1]["predictions"] == [None]
    assert asking.rows({"t": [1, 2, 3]})[1]["predictions"] == whole
    asking.close()

    version = Version.load(tmp_path / "run")
    path = write(tmp_path / "ask.parquet", [*GOOD[:9], [1, 2, 99]])
    table, bad = version.answer(path)
    assert table["probability"].is_valid().to_pylist() == [True] * 9 + [False]
    assert [(row.fragment, row.offset) for row in bad] == [("ask.parquet", 9)]
    assert version.evaluate(path)["rows_refused"] == 1


def test_what_is_no_id_is_a_bad_row(tmp_path: Path) -> None:
    write(tmp_path / "data" / "1.parquet", GOOD)
    run(job_of(tmp_path, WORDS), tmp_path / "run")
    app = App(Champion(tmp_path / "run"))
    asking = Asking(app)
    wrong: list[Any] = [[1, -5, 2], [1.5, 2.0, 3.0], [1, 2, 10**30], [1, 2, 1e30], [10, 1, 1]]
    for ids in wrong:
        status, answer = asking.rows({"t": ids}, {"t": [1, 2, 3]})
        assert (status, answer["predictions"][0], answer["refused"][0]["column"]) == (200, None, "t"), ids
        assert answer["predictions"][1] is not None
    schema = app.openapi()["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    asking.close()
    items = schema["properties"]["rows"]["items"]["properties"]["t"]["items"]
    assert (items["type"], items["minimum"], items["maximum"]) == ("integer", 0, 9)


def test_a_run_puts_ids_without_an_entry_into_quarantine(tmp_path: Path) -> None:
    write(tmp_path / "data" / "1.parquet", [*GOOD[:9], [1, 2, 99]])
    write(tmp_path / "data" / "2.parquet", [*GOOD[:9], [-1, 2, 9]])
    done = run(job_of(tmp_path, WORDS, on_bad_row="quarantine"), tmp_path / "run")
    assert (done.summary.rows_learned, done.summary.rows_quarantined) == (18, 2)
    assert audit(tmp_path / "run").holds
    with pytest.raises(BadRows, match=r"t: expected whole numbers from 0 to 9, 1 of 10 rows in 1\.parquet are other"):
        run(job_of(tmp_path, WORDS), tmp_path / "other")


@pytest.mark.parametrize("warm", [None, 10])
def test_a_run_names_the_rows_at_which_a_forward_raises(tmp_path: Path, warm: int | None) -> None:
    write(tmp_path / "data" / "1.parquet", GOOD[:10])
    write(tmp_path / "data" / "2.parquet", [*GOOD[:7], [1, 2, 99], [1, 1, 1], [60, 1, 1]])
    expected = r"those: row 7 of 2\.parquet, row 9 of 2\.parquet \(ValueError: too high\)"
    with pytest.raises(StreamError, match=expected):
        run(job_of(tmp_path, STRICT), tmp_path / "run")
    if warm is not None:
        write(tmp_path / "data" / "1.parquet", [*GOOD[:9], [60, 1, 1]])
        with pytest.raises(StreamError, match=r"those: row 9 of 1\.parquet"):
            run(job_of(tmp_path, STRICT), tmp_path / "warm")


def test_the_command_ends_in_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data" / "1.parquet", GOOD)
    run(job_of(tmp_path, STRICT), tmp_path / "run")
    path = write(tmp_path / "ask.parquet", [[99, 99, 99]] * 3)
    assert cli.main(["evaluate", str(tmp_path / "run"), str(path)]) == 2
    assert "3 that it cannot, as row 0: ValueError: too high" in " ".join(capsys.readouterr().err.split())
