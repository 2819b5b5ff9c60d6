"""CSV as other places write it gives the rows that plain CSV gives, in a stream, to predict, and from `incr init`."""

from __future__ import annotations

import gzip
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from incr_core.commands.cli import main
from incr_core.data.sources import CsvFormat, found_csv_format, open_source
from incr_core.errors import ArgumentError, JobError
from incr_core.job import Job
from incr_core.runs import Run

QUIETLY = ["--quiet", "--set", "stream.settle=0s"]


def german(value: float) -> str:
    return f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")


def write(folder: Path, n: int = 120) -> None:
    """The same rows twice: plain, and as Germans write them."""
    rng = np.random.default_rng(0)
    plain, other = ["price,weight,note,dear"], ["price;weight;note;dear"]
    for i in range(n):
        price, weight = float(rng.lognormal(7, 1)), float(rng.normal())
        note, dear = f"n{i % 3}", "yes" if price > 1000 else "no"
        plain.append(f"{price:.2f},{weight:.2f},{note},{dear}")
        other.append(f"{german(price)};{german(weight)};{note};{dear}")
    (folder / "plain.csv").write_text("\n".join(plain) + "\n")
    (folder / "german.csv").write_text("\n".join(other) + "\n")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a,b\n1.5,x\n", {}),
        ("a;b\n1,5;x\n2,25;y\n", {"delimiter": ";", "decimal": ","}),
        ('a,b\n"1,234.5",x\n', {"thousands": ","}),
        ("a\tb\n1 234,5\tx\n", {"delimiter": "\t", "decimal": ",", "thousands": " "}),
        ("a;b\n1'234.5;x\n", {"delimiter": ";", "thousands": "'"}),
        ('a;b\n"x;y";2\n', {"delimiter": ";"}),
        ("a|b\n1|2\n", {"delimiter": "|"}),
        ("only\n1.5\n", {}),
        ("", {}),
        ("a,b\n1.234,5.678\n", {}),
    ],
)
def test_how_it_is_written_is_found(text: str, settings: dict[str, str]) -> None:
    assert found_csv_format(text).settings == settings


def test_it_is_a_format_wherever_one_goes() -> None:
    kind = CsvFormat(";", ",", ".")
    assert kind == "csv"
    copy = pickle.loads(pickle.dumps(kind))
    assert (copy.delimiter, copy.decimal, copy.thousands) == (";", ",", ".")


@pytest.mark.parametrize("packed", [False, True])
def test_both_files_give_the_same_rows(tmp_path: Path, packed: bool) -> None:
    write(tmp_path)
    plain = open_source(tmp_path / "plain.csv").head()
    path = tmp_path / "german.csv"
    if packed:
        path = tmp_path / "german.csv.gz"
        path.write_bytes(gzip.compress((tmp_path / "german.csv").read_bytes()))
    assert open_source(path, CsvFormat(";", ",", ".")).head().equals(plain)


def test_text_that_is_no_number_stays_text_and_missing_values_stay_missing(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a;b;c\n1.234,5;1.234;x.y\n;12,5;2.000\n7;oops;z,w\n")
    found = open_source(tmp_path / "x.csv", CsvFormat(";", ",", ".")).head()
    assert found["a"].to_pylist() == [1234.5, None, 7.0]
    assert found["b"].to_pylist() == ["1234", "12.5", "oops"]
    assert found["c"].to_pylist() == ["x.y", "2000", "z,w"]
    assert found["a"].type == pa.float64()


def test_init_finds_it_and_its_run_is_that_of_plain_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    digests = {}
    for name in ("plain", "german"):
        job, out = tmp_path / f"{name}.toml", tmp_path / name
        assert main(["init", str(tmp_path / f"{name}.csv"), "--label", "dear", "--out", str(job)]) == 0
        said = capsys.readouterr().out
        assert ('delimiter ";", decimal ",", thousands "."' in said) == (name == "german")
        assert main(["run", str(job), "--out", str(out), *QUIETLY]) == 0
        digests[name] = Run(out).summary.model_sha256
    assert digests["plain"] == digests["german"]
    run = Run(tmp_path / "german")
    answers = run.champion.predict(tmp_path / "german.csv", keep=["price"])
    assert answers["price"].to_pylist() == open_source(tmp_path / "plain.csv").head()["price"].to_pylist()
    other = Run(tmp_path / "plain").champion.predict(tmp_path / "plain.csv")
    assert answers["probability"].to_pylist() == other["probability"].to_pylist()


def test_what_cannot_be_is_refused_by_the_key(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"csv.thousands: expected another sign than csv.decimal, got ',' for both"):
        CsvFormat(";", ",", ",")
    job = tmp_path / "job.toml"
    for said, why in (
        ('csv = { delimiter = ";;" }', "expected one ASCII character"),
        ('csv = { decimal = "/" }', "csv.decimal"),
        ('format = "parquet"\ncsv = { decimal = "," }', "stream.csv: expected stream.format"),
    ):
        job.write_text(f'[stream]\npath = "x"\n{said}\n[features]\nlabel = "y"\n[learner]\nobjective = "regression"\n')
        with pytest.raises(JobError, match=why):
            Job.written(job)


def test_times_with_a_zone_among_others_without_are_told_and_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["at,x,y"]
    lines += [f"2024-01-{1 + i // 20:02d} {i % 20:02d}:00:00{'Z' if i % 3 else ''},{i % 7},{i % 5}" for i in range(90)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    job = tmp_path / "job.toml"
    assert main(["init", str(tmp_path / "rows.csv"), "--label", "y", "--out", str(job)]) == 0
    assert "at: 30 times have no zone, others have one; stream.time_zone says what they mean" in capsys.readouterr().out
    assert 'time_zone = "UTC"' in job.read_text()
    assert 'predict_at = "at"' in job.read_text()
    assert main(["run", str(job), "--out", str(tmp_path / "run"), *QUIETLY]) == 0
    assert Run(tmp_path / "run").summary.rows_learned == 90


def test_a_job_written_for_a_semicolon_file_with_a_column_left_out_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["code;price;note;dear"]
    lines += [f"{i};{i % 97},5;n{i % 3};{'yes' if i % 97 > 40 else 'no'}" for i in range(300)]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    os.utime(tmp_path / "rows.csv", (1, 1))  # settled
    job, out = str(tmp_path / "job.toml"), str(tmp_path / "run")
    assert main(["init", str(tmp_path / "rows.csv"), "--label", "dear", "--out", job]) == 0
    assert Job.read(job).features.exclude
    assert main(["run", job, "--out", out, *QUIETLY, "--set", "model.kind=mlp", "--set", "learner.epochs=1"]) == 0, (
        capsys.readouterr().err
    )
    assert Run(out).summary.rows_learned == 300


@pytest.mark.parametrize(
    ("name", "encoding", "got"),
    [
        ("rows.csv", "latin1", "expected UTF-8, got bytes that are not; .* iconv -f latin1 -t utf-8"),
        ("rows.csv.gz", "latin1", "expected UTF-8, got bytes that are not; .* iconv -f latin1 -t utf-8"),
        ("rows.csv", "utf-16", "expected UTF-8, got UTF-16; .* iconv -f utf-16 -t utf-8"),
        ("rows.jsonl", "latin1", "expected UTF-8, got bytes that are not; .* iconv -f latin1 -t utf-8"),
        ("rows.jsonl", "utf-16", "expected UTF-8, got UTF-16; .* iconv -f utf-16 -t utf-8"),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, encoding: str, got: str
) -> None:
    rows = [(f"{i}", f"{i % 7}", "ab"[i % 2]) for i in range(40)]
    if "csv" in name:
        kind, text = "csv", "id,größe,y\n" + "".join(",".join(row) + "\n" for row in rows)
    else:
        kind, text = "jsonl", "".join(f'{{"id": {i}, "größe": {x}, "y": "{y}"}}\n' for i, x, y in rows)
    (tmp_path / "good").mkdir()
    good = tmp_path / "good" / f"rows.{kind}"
    good.write_text(text)
    bad = tmp_path / name
    bad.write_bytes(gzip.compress(text.encode(encoding)) if name.endswith(".gz") else text.encode(encoding))
    for file in (good, bad):
        os.utime(file, (1, 1))  # settled
    job, out = tmp_path / "job.toml", str(tmp_path / "run")

    def refused(*typed: str) -> None:
        capsys.readouterr()
        assert main(list(typed)) == 2
        assert re.search(rf"{re.escape(name)}: {got}", capsys.readouterr().err)

    refused("init", str(bad), "--label", "y", "--out", str(job))
    assert main(["init", str(good), "--label", "y", "--out", str(job)]) == 0
    refused("run", str(job), "--out", out, *QUIETLY, "--set", f"stream.path={bad}")
    assert main(["run", str(job), "--out", out, *QUIETLY]) == 0
    refused("predict", out, str(bad))
