"""`incr serve --workers`: several processes answer on one port as one server, and are replaced when killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvicorn")

from incr_core.commands.cli import main
from incr_core.registry import RunDirectory
from incr_core.serving import Board
from tests.support.asked import ROW, learned
from tests.support.processes import descendants, wait_until
from tests.support.served import ask, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a worker ends with its parent through prctl"),
]


class Connected:
    """A connection that is kept, and so stays with one worker."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=600)
        self.worker, self.pid = self._who()

    def _who(self) -> tuple[int, int]:
        told = self.get("/health")
        place = told["worker"]
        return place, next(one["pid"] for one in told["workers"] if one["worker"] == place)

    def get(self, path: str) -> Any:
        self._connection.request("GET", path)
        return self._answer()

    def post(self, path: str, document: Any) -> Any:
        body = json.dumps(document).encode()
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        return self._answer()

    def _answer(self) -> Any:
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return answer.status
        return json.loads(body) if "json" in str(answer.headers["Content-Type"]) else body.decode()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def one_each(url: str, workers: int) -> Iterator[list[Connected]]:
    """A connection to each worker, in their order."""
    found: dict[int, Connected] = {}
    idle: list[Connected] = []
    try:
        while len(found) < workers:
            # Others stay open meanwhile, so that each worker gets some.
            idle.append(one := Connected(url))
            found.setdefault(one.worker, one)
        yield [found[place] for place in range(workers)]
    finally:
        for one in idle:
            one.close()


def metric(text: str, name: str) -> float:
    [value] = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("workers"), every=20)


def test_workers_answer_as_one_server_and_a_killed_one_is_replaced(out: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with started(out, "--workers", "2", "--journal", str(journal), "--join-every", "0.1") as (url, parent):
        with one_each(url, 2) as (one, other):
            assert len({one.pid, other.pid, parent}) == 3
            ids = one.post("/predict", {"rows": [{**ROW, "height": place} for place in range(6)]})["ids"]
            ids += other.post("/predict", {"rows": [{**ROW, "height": 6}]})["ids"]
            assert len(set(ids)) == 7
            # A label comes to the other process, and again to the first.
            assert other.post("/feedback", {"id": ids[0], "label": 1})["accepted"] == 1
            assert one.post("/feedback", {"id": ids[0], "label": 1}) == 409
            assert one.post("/feedback", {"id": ids[6], "label": 0})["accepted"] == 1
            assert one.post("/feedback", {"id": "other-1", "label": 0}) == 404
            # Either tells of both.
            for connected in (one, other):
                wait_until(lambda it=connected: metric(it.get("/metrics"), "incr_rows_total") == 7)  # type: ignore[misc]
                text = connected.get("/metrics")
                assert 'incr_feedback_total{outcome="accepted"} 2' in text
                assert metric(text, "incr_workers") == 2
                assert metric(text, "incr_predict_seconds_count") == 2
                assert metric(text, "incr_journal_labelled_total") == 2
                for place in (0, 1):
                    assert f'incr_champion_version{{worker="{place}"}} 3' in text
                assert connected.get("/standing")["rows"] == 7
            # Each takes the next champion by itself.
            RunDirectory.open(out).promote(1)
            for connected in (one, other):
                wait_until(lambda it=connected: it.get("/version")["version"] == 1)  # type: ignore[misc]
            RunDirectory.open(out).promote(3)
            # One is killed: the other goes on, and another takes its place.
            os.kill(killed := one.pid, signal.SIGKILL)
            assert other.post("/feedback", {"id": ids[1], "label": 1})["accepted"] == 1
        with one_each(url, 2) as (one, other):
            assert killed not in (one.pid, other.pid)
            text = one.get("/metrics")
            assert metric(text, "incr_workers_replaced_total") == 1
            assert metric(text, "incr_rows_total") == 7  # what the killed one had counted still counts
            assert metric(text, "incr_requests_under_way") == 1
            assert one.post("/feedback", {"id": ids[2], "label": 0})["accepted"] == 1
            assert one.post("/feedback", {"id": ids[1], "label": 0}) == 409
        pids = list(descendants(parent))
        assert len(pids) == 2
    assert not any(map(is_alive, [parent, *pids]))
    # All labels are in files, each once, also those received at the end.
    tables = [pq.read_table(path) for path in sorted((journal / "labelled").glob("*.parquet"))]
    assert sorted(height for table in tables for height in table["height"].to_pylist()) == [0, 1, 2, 6]


def test_no_worker_outlives_a_killed_parent(out: Path) -> None:
    with started(out, "--workers", "2") as (url, parent):
        pids = list(descendants(parent))
        assert len(pids) == 2
        assert ask(f"{url}/predict", {"rows": [ROW]})["version"] == 3
        os.kill(parent, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)))


def test_workers_that_are_killed_all_the_time_lose_no_label(out: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    acknowledged: dict[str, int] = {}
    with started(out, "--workers", "2", "--journal", str(journal), "--join-every", "0.05") as (url, parent):

        def talk(place: int) -> None:
            for turn in range(60):
                height = 1000 * place + turn
                try:
                    [name] = ask(f"{url}/predict", {"rows": [{**ROW, "height": height}]})["ids"]
                    if ask(f"{url}/feedback", {"id": name, "label": turn % 2}) == {"accepted": 1, "refused": []}:
                        acknowledged[name] = height
                except (OSError, ValueError, HTTPException):  # the worker was killed before it answered
                    continue

        with ThreadPoolExecutor(3) as pool:
            talking = [pool.submit(talk, place) for place in range(3)]
            for _ in range(4):
                victims = list(descendants(parent))
                if victims:
                    os.kill(victims[0], signal.SIGKILL)
                time.sleep(0.3)
            for one in talking:
                one.result()
        assert len(acknowledged) > 30
    tables = [pq.read_table(path) for path in sorted((journal / "labelled").glob("*.parquet"))]
    heights = [height for table in tables for height in table["height"].to_pylist()]
    assert len(heights) == len(set(heights))
    assert set(acknowledged.values()) <= set(heights)


def test_limits_hold_for_all_workers(out: Path) -> None:
    with started(out, "--workers", "2", "--rate", "5") as (url, _), one_each(url, 2) as (one, other):
        answers = [connected.post("/predict", {"rows": [ROW]}) for _ in range(20) for connected in (one, other)]
        refused = sum(answer == 429 for answer in answers)
        assert 40 - 5 - 10 < refused <= 35  # a second's worth at once, and what was earned within two seconds


def test_what_keeps_workers_from_starting_is_told_once(
    out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["serve", str(tmp_path / "nowhere"), "--workers", "2", "--port", "0"]) == 2
    assert capfd.readouterr().err.count("expected a run directory, found none") == 1
    assert main(["serve", str(out), "--workers", "0"]) == 2
    assert "--workers: expected at least 1, got 0" in capfd.readouterr().err
    tls = ["--tls-cert", str(tmp_path / "file"), "--tls-key", str(tmp_path / "file")]
    assert main(["serve", str(out), "--workers", "2", "--port", "0", *tls]) == 2
    assert "cannot be used" in capfd.readouterr().err


def test_the_board_adds_requests_and_keeps_the_counts_of_a_killed_worker() -> None:
    board = Board(3)
    assert [board.spend(2.0, now) for now in (0.0, 0.0, 0.0, 0.5, 0.5)] == [True, True, False, True, False]
    for worker in (0, 1, 1):
        board.enter(worker)
    board.leave(0)
    assert board.inside == 2
    board.publish(1, {"rows": 7})
    board.replace(1)
    assert (board.inside, board.replaced, board.published(1)) == (0, 1, {"rows": 7})
    # A writing that was cut leaves the one before.
    board.publish(1, {"rows": 8})
    board._memory[board._at(1, 2) + 20] ^= 1
    assert board.published(1) == {"rows": 7}
