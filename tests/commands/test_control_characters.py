"""Control characters in data reach no terminal: messages, tables, progress bar and report tell them by codes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.errors import StreamError
from incr_core.shown import shown

NASTY = "\x1b[31m\r\n\u202e[red]$\\q$"
TOLD = r"\x1b[31m\r\n\u202e[red]$\q$"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")

COLUMN, LABEL = f"height{NASTY}", f"size{NASTY}"
SMALL, LARGE = f"small{NASTY}", f"large{NASTY}"


def rows(**changes: Any) -> pa.Table:
    """Rows whose columns, categories and labels are called as nobody should call them."""
    columns: dict[str, Any] = {
        COLUMN: [str(index) for index in range(20)],
        "colour": [f"red{NASTY}", "green"] * 10,
        LABEL: [SMALL, LARGE] * 10,
    }
    return pa.table(columns | changes)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job on a folder of one file, whose name is not better."""
    (tmp_path / "data").mkdir()
    pq.write_table(rows(), tmp_path / "data" / f"day{NASTY}.parquet")
    path = tmp_path / "job.toml"
    names = f'label = "{escaped(LABEL)}"\nnumeric = ["{escaped(COLUMN)}"]\ncategorical = ["colour"]\n'
    path.write_text(f'[stream]\npath = "data"\n[features]\n{names}[learner]\nobjective = "multiclass"\n')
    return path


def escaped(text: str) -> str:
    """The text inside quotes of TOML."""
    return "".join(letter if letter.isprintable() and letter != "\\" else f"\\u{ord(letter):04x}" for letter in text)


COMMANDS = """
import json, sys
from incr_core.commands.cli import main
for command in json.loads(sys.argv[1]):
    print("exit", main(command), flush=True)
"""


def incr(*commands: list[str]) -> list[tuple[int, str]]:
    """The exit codes of commands and all that they write, warnings of loggers too, in which nothing is forbidden."""
    found = []
    for command in commands:
        with io.StringIO() as written, contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            logging.getLogger().addHandler(log := logging.StreamHandler(written))
            try:
                found.append((main(command), written.getvalue()))
            finally:
                logging.getLogger().removeHandler(log)
        assert FORBIDDEN.search(found[-1][1]) is None, repr(found[-1][1])
    return found


@pytest.mark.slow
def test_a_run_and_all_that_is_asked_of_it_tell_them_by_their_codes(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = f"new{NASTY}.parquet"
    other, renamed = f"other-{new}", f"renamed-{new}"
    pq.write_table(rows(**{COLUMN: [*map(str, range(19)), f"tall{NASTY}"]}), tmp_path / new)
    pq.write_table(rows(**{LABEL: [f"other{NASTY}"] * 20}), tmp_path / other)
    pq.write_table(rows().rename_columns(["a\x07", "b\x1b", "c\u2067"]), tmp_path / renamed)
    found = incr(
        ["run", "job.toml", "--out", "run"],
        ["versions", "run"],
        ["predict", "run", new, "-o", f"out{NASTY}.parquet"],
        ["evaluate", "run", new],
        ["evaluate", "run", other],
        ["predict", "run", renamed],
        ["report", "run"],
    )
    assert [code for code, _ in found] == [0, 0, 0, 0, 2, 2, 0]
    _, versions, predicted, _, evaluated, refused, _ = (text for _, text in found)
    assert f"day{TOLD}.parquet" in versions
    assert f'row 19: height{TOLD}: expected float, got text ("tall{TOLD}")' in predicted
    assert f"19 predictions: out{TOLD}.parquet" in predicted
    assert (
        evaluated == f"incr: other-new{TOLD}.parquet: expected labelled rows to evaluate, found none that can be used\n"
    )
    assert f'new{TOLD}.parquet: expected a column "height{TOLD}", got a\\x07, b\\x1b, c\\u2067' in refused
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"day{TOLD}.parquet" in page
    assert FORBIDDEN.search(page) is None


def test_files_that_are_gone_are_told_by_their_codes(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(job), "--out", str(tmp_path / "run")]) == 0
    os.remove(tmp_path / "data" / f"day{NASTY}.parquet")
    pq.write_table(rows(), tmp_path / "data" / "next.parquet")
    assert main(["forget", str(tmp_path / "run"), "--where", "colour=green"]) == 0
    assert f"gone: day{TOLD}.parquet; --where could not look there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            rows(**{COLUMN: ["1"] * 19 + [f"n/a{NASTY}"]}),
            f"stream.features.height{TOLD}: expected float, 1 of 20 rows in day{TOLD}.parquet are text "
            f'("n/a{TOLD}"); fix them',
        ),
        (
            rows(**{COLUMN: [f"n/a{NASTY}"] * 20}),
            f'stream.features.height{TOLD}: expected float, got text ("n/a{TOLD}") in every row of day{TOLD}.parquet; ',
        ),
        (rows(**{COLUMN: [[1.0, 2.0]] * 10 + [[1.0]] * 10}), f"height{TOLD}: expected 2 numbers, 10 of 20 rows in day"),
        (rows().drop_columns(["colour"]), f'day{TOLD}.parquet: expected a column "colour", got height{TOLD}'),
        (None, f"day{TOLD}.parquet: expected a whole parquet file, got one that cannot be read"),
    ],
)
def test_a_run_that_fails_says_so_in_a_line(
    job: Path, tmp_path: Path, table: pa.Table | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data" / f"day{NASTY}.parquet"
    if table is None:
        path.write_bytes(b"PAR1\x1b[2J")
    else:
        pq.write_table(table, path)
    assert main(["run", str(job), "--out", str(tmp_path / "run"), "--set", "stream.settle=0s"]) == 2
    written = capsys.readouterr().err
    assert told in written
    assert written.startswith("incr: ")
    assert FORBIDDEN.search(written) is None
    assert written.count("\n") == 1


def terminal(*commands: list[str], cwd: Path) -> str:
    """All that commands write to a terminal."""
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TERM": "xterm",
        "COLUMNS": "250",
    }
    command = [sys.executable, "-u", "-c", COMMANDS, json.dumps(commands)]
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # until the other end is closed
            while piece := os.read(ours, 65_536):
                written += piece
        os.close(ours)
        assert process.wait(600) == 0, written
    return written.decode()


@pytest.mark.slow
def test_a_terminal_gets_what_rich_draws_and_nothing_of_the_data(job: Path, tmp_path: Path) -> None:
    written = terminal(
        ["run", "job.toml", "--out", "run", "--set", 'name="[red]job"'],
        ["predict", "run", f"data/day{NASTY}.parquet"],
        cwd=tmp_path,
    )
    drawn, _, table = written.partition("exit 0\r\n")
    assert "[red]job" in drawn
    assert f"day{TOLD}.parquet" in drawn
    assert "\u202e" not in drawn
    assert f'"probability.small{TOLD}"' in table
    assert FORBIDDEN.search(table.replace("\r\n", "\n")) is None


def test_a_name_that_is_no_text_is_refused_by_its_codes(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(tmp_path / "data" / f"day{NASTY}.parquet", os.fsencode(tmp_path / "data") + b"/b\xff.parquet")
    assert main(["run", str(job), "--out", str(tmp_path / "run")]) == 2
    told = f"expected names in UTF-8, got b\\udcff.parquet in {tmp_path / 'data'}; rename it or take it out"
    assert capsys.readouterr().err == f"incr: stream.path: {told}\n"


def test_an_error_is_one_line_in_python_too() -> None:
    error = StreamError(f"day{NASTY}.csv: expected rows")
    assert str(error) == f"day{TOLD}.csv: expected rows"
    assert shown(str(error)) == str(error)


@pytest.mark.parametrize(
    "letter", ["\x00", "\x07", "\x7f", "\x9b", "\xad", "\u200b", "\u2028", "\u2066", "\ufeff", "\udcff"]
)
def test_what_cannot_be_printed_is_told_by_its_code(letter: str) -> None:
    assert shown(f"a{letter}b") == "a" + letter.encode("unicode_escape", "surrogatepass").decode() + "b"
    assert shown(f"a{letter}b").isprintable()
