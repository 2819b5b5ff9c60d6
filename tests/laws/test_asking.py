"""Law 10: nothing that is only asked (predicted, evaluated, served, reported) changes what is answered later."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incr_core.commands.cli import main
from incr_core.errors import StreamError
from incr_core.runs import Version
from tests.support.asked import ROW, hashes, learned, rows, state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("asked"))


def changed(name: str, values: Any) -> pa.Table:
    """Ten rows in which a column is another."""
    table = rows(10, seed=1)
    return table.set_column(table.column_names.index(name), name, [values])


WEIRD = {
    "longer lists": rows(10, width=5),
    "ragged lists": changed("image", [[1.0] * 4] * 5 + [[1.0] * 9] * 5),
    "numbers for lists": changed("image", list(range(10))),
    "lists for numbers": changed("height", [[1.0, 2.0]] * 10),
    "no lists at all": changed("image", [None] * 10),
    "text for numbers": changed("height", ["n/a"] * 10),
    "numbers for categories": changed("colour", list(range(10))),
    "far away": changed("height", np.full(10, 3e38)),
    "a third label": changed("y", list(range(10))),
    "years ahead": changed("at", np.full(10, np.datetime64("2096-01-01", "s"))),
    "no rows": rows(0),
    "a column less": rows(10).drop_columns(["colour"]),
}


@pytest.mark.parametrize("name", WEIRD)
def test_a_file_that_is_asked_about_changes_no_later_answer(run: Path, tmp_path: Path, name: str) -> None:
    usual, weird = tmp_path / "usual.parquet", tmp_path / "weird.parquet"
    pq.write_table(rows(20, seed=2), usual)
    pq.write_table(WEIRD[name], weird)
    version, disk = Version.load(run), hashes(run)
    answer, measured, before = version.predict(usual), version.evaluate(usual), state(version)
    for asked in (Version.predict, Version.evaluate):
        with contextlib.suppress(StreamError):
            asked(version, weird)
        assert state(version) == before
        assert version.predict(usual) == answer
        assert version.evaluate(usual) == measured
    assert hashes(run) == disk
    assert Version.load(run).predict(usual) == answer


def test_commands_that_ask_leave_the_run_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, weird = tmp_path / "usual.parquet", tmp_path / "weird.parquet"
    pq.write_table(rows(20, seed=2), usual)
    pq.write_table(WEIRD["longer lists"], weird)
    assert main(["report", str(run)]) == 0
    capsys.readouterr()
    disk = hashes(run)
    assert main(["predict", str(run), str(usual), "-o", str(tmp_path / "first.parquet")]) == 0
    for command in (["versions"], ["report"], ["predict", str(usual)], ["evaluate", str(usual)]):
        assert main([command[0], str(run), *command[1:]]) == 0
        assert hashes(run) == disk
    capsys.readouterr()
    for name in ("predict", "evaluate"):
        assert main([name, str(run), str(weird)]) == 2
        assert capsys.readouterr().err == (
            "incr: stream.features.image: expected lists of 4 numbers, got lists of 5 in weird.parquet; write it as "
            "the rows that the run began with, or take it out\n"
        )
        assert hashes(run) == disk
    assert main(["predict", str(run), str(usual), "-o", str(tmp_path / "second.parquet")]) == 0
    assert pq.read_table(tmp_path / "second.parquet") == pq.read_table(tmp_path / "first.parquet")


def test_requests_leave_the_run_as_it_is(run: Path) -> None:
    pytest.importorskip("httptools")
    from incr_core.serving import Champion

    champion, disk = Champion(run), hashes(run)
    answer, before = champion.predict([ROW]), state(champion.current.version)
    for column, value in (("image", [1, 2, 3, 4, 5]), ("image", 7), ("height", [1, 2]), ("colour", {}), ("at", True)):
        with pytest.raises(StreamError, match=rf"^rows\[0\]\.{column}: expected "):
            champion.predict([{**ROW, column: value}])
        assert champion.predict([ROW]) == answer
    champion.predict([dict.fromkeys(ROW) | {"at": ROW["at"]}])
    champion.describe()
    assert state(champion.current.version) == before
    assert hashes(run) == disk
