"""Servers that share a PostgreSQL: each label is joined once, and nothing acknowledged is lost when it is killed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")
pytest.importorskip("psycopg")

from incr_core.commands.audit import audit
from incr_core.commands.cli import main
from incr_core.runs import Run
from tests.support.asked import ROW, learned_folder
from tests.support.postgres import Postgres, postgres
from tests.support.processes import trainer, wait_until
from tests.support.served import ask, started


class Client:
    """Predicts a row at one server and labels it at another, and continues while the database is away.

    Attributes:
        told: The label of each row that was sent, by its id, with the number of the row.
        acknowledged: The rows whose labels were accepted.
        refusals: What was answered instead.
    """

    def __init__(self, urls: list[str], seed: int) -> None:
        self.told: dict[str, int] = {}
        self.acknowledged: set[int] = set()
        self.refusals: list[tuple[int, str]] = []
        self._urls, self._draw, self._next = urls, random.Random(seed), 1_000_000 * seed
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self, path: str, document: Any) -> Any:
        try:
            answer = ask(self._draw.choice(self._urls) + path, document)
        except (OSError, ValueError, HTTPException):
            return None
        if isinstance(answer, tuple):
            self.refusals.append(answer)
            return None
        return answer

    def _talk(self) -> None:
        while not self._end.is_set():
            number, self._next = self._next, self._next + 1
            answer = self._ask("/predict", {"rows": [{**ROW, "height": number}]})
            if answer is not None:
                [name] = answer["ids"]
                assert name not in self.told
                self.told[name] = number
                if self._ask("/feedback", {"id": name, "label": number % 2}) == {"accepted": 1, "refused": []}:
                    self.acknowledged.add(number)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.chaos)])
def test_a_killed_database_loses_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    out, data = learned_folder(tmp_path)
    with postgres() as database, ExitStack() as ended:
        options = ["--journal", database.url, "--labelled", str(data), "--join-every", "0.1"]
        learning = ended.enter_context(trainer(tmp_path / "job.toml", out))
        one, _ = ended.enter_context(started(out, *options, "--workers", "2"))
        other, _ = ended.enter_context(started(out, *options))
        clients = [Client([one, other], seed) for seed in (1, 2)]
        draw = random.Random(3)
        for _ in range(kills):
            before = [len(client.acknowledged) for client in clients]
            wait_until(lambda: all(len(c.acknowledged) > n + 5 for c, n in zip(clients, before, strict=True)))  # noqa: B023
            time.sleep(draw.random() * 0.2)
            database.kill()
            seen = [len(client.refusals) for client in clients]
            wait_until(lambda: all(len(c.refusals) > n for c, n in zip(clients, seen, strict=True)))  # noqa: B023
            assert "incr_journal_failing 1\n" in ask(f"{other}/metrics")
            wait_until(lambda: isinstance(ask(f"{other}/ready"), tuple))
            database.start()
            wait_until(lambda: not isinstance(ask(f"{other}/ready"), tuple))
        for client in clients:
            client.end()
            assert {status for status, _ in client.refusals} == {503}
            assert all("cannot be written or read" in text for _, text in client.refusals)
        _tell_again(clients, other)
        told = {number for client in clients for number in client.told.values()}
        wait_until(lambda: _rows(data).num_rows == len(told))
        rows_learned = 60 + len(told)
        wait_until(lambda: Run(out).summary.rows_learned >= rows_learned, learning)
        assert database.query("SELECT count(*) FROM incr.labels") == [(len(told),)]
    table = _rows(data)
    assert max(Counter(table["height"].to_pylist()).values()) == 1
    assert set(table["height"].to_pylist()) == told
    assert all(
        label == height % 2 for height, label in zip(table["height"].to_pylist(), table["y"].to_pylist(), strict=True)
    )
    audited = audit(out)
    assert (audited.holds, audited.states.states["learned"]) == (True, rows_learned)


def _rows(data: Path) -> pa.Table:
    tables = [pq.read_table(path) for path in sorted(data.glob("feedback-*.parquet"))]
    return pa.concat_tables(tables) if tables else pa.table({"height": [], "y": []})


def _tell_again(clients: list[Client], url: str) -> None:
    """Send the labels whose answer was lost: each is accepted now, or was kept."""
    for client in clients:
        for name, number in client.told.items():
            if number not in client.acknowledged:
                answer = ask(f"{url}/feedback", {"id": name, "label": number % 2})
                assert answer == {"accepted": 1, "refused": []} or answer[0] == 409


@pytest.fixture(scope="module")
def database() -> Any:
    with postgres() as found:
        yield found


@pytest.mark.slow
def test_an_erasure_reaches_the_database_while_servers_use_it(
    database: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = learned_folder(tmp_path)
    options = ["--journal", database.url, "--labelled", str(data), "--join-every", "600"]
    with started(out, *options) as (url, _):
        secret = {**ROW, "colour": "secret-of-7"}
        ids = ask(f"{url}/predict", {"rows": [ROW, secret, secret]})["ids"]
        for name in ids[:2]:
            assert ask(f"{url}/feedback", {"id": name, "label": 1})["accepted"] == 1
        forget = ["forget", str(out), "--where", "colour=secret-of-7", "--journal", database.url]
        assert main(forget) == 0
        assert "journal: 2 predictions deleted, 1 of them with a label" in capsys.readouterr().out
        assert ask(f"{url}/feedback", {"id": ids[2], "label": 1})[0] == 410
        assert ask(f"{url}/feedback", {"id": ids[0], "label": 1})[0] == 409
        assert ask(f"{url}/predict", {"rows": [ROW]})["ids"][0] not in ids
    assert _rows(data).num_rows == 1


def test_a_database_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = learned_folder(tmp_path)
    address = "postgresql://tester:secret@127.0.0.1:9/nothing"
    assert main(["serve", str(out), "--port", "0", "--journal", address]) == 2
    assert "expected --labelled FOLDER with a PostgreSQL" in capsys.readouterr().err
    assert main(["serve", str(out), "--port", "0", "--journal", address, "--labelled", str(data)]) == 1
    told = capsys.readouterr().err
    assert "postgresql://127.0.0.1:9/nothing: cannot be written or read: " in told
    assert "secret" not in told
