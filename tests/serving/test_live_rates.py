"""Rates at serving are those of the stream at that moment: what was told counts at once, and never twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")

from incr_core.data.rates import History
from incr_core.data.timeline import outcomes_of
from incr_core.job import Job
from incr_core.runs import Run, Version, run
from incr_core.serving import App, Champion, Feedback, SqliteJournal
from tests.support.asked import Asking

RATES: list[dict[str, Any]] = [
    {"by": [["carrier"], []], "window": ["2h", "12h"]},
    {"by": ["carrier"], "window": "6h", "prior": 0.0, "outcome": "gain", "known_at": "seen"},
]


def rows(hours: list[float], late: list[int]) -> pa.Table:
    """Rows whose labels are known half an hour later."""
    told = [f"2020-01-01T{int(hour):02}:{round(hour % 1 * 60):02}:00" for hour in hours]
    known = [f"2020-01-01T{int(hour + 0.5):02}:{round((hour + 0.5) % 1 * 60):02}:00" for hour in hours]
    carrier = ["AA" if place % 3 else "UA" for place in range(len(hours))]
    times = {"at": told, "known": known, "seen": known}
    gain = [float(place) for place in range(len(hours))]
    return pa.table({**times, "x": [0.5] * len(hours), "carrier": carrier, "gain": gain, "late": late})


def job(data: Path) -> Job:
    """A job on a folder of such rows."""
    document = {
        "stream": {"path": str(data), "every": "1h", "predict_at": "at", "label_at": "known"},
        "features": {"label": "late", "numeric": ["x"], "categorical": ["carrier"], "rate": RATES},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
        "publish": {"states": 20},
    }
    return Job.from_document(document).resolved()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    yield made
    made.asking.close()
    made.feedback.close()


class Loop:
    """A run, a server and what both write."""

    def __init__(self, folder: Path) -> None:
        self.out, self.data = folder / "run", folder / "data"
        self.data.mkdir()
        pq.write_table(rows([1, 2, 3, 4], [0, 1, 0, 1]), self.data / "a.parquet")
        self.job = job(self.data)
        run(self.job, self.out)
        self.champion = Champion(self.out)
        self.feedback = Feedback(SqliteJournal(folder / "journal"), self.champion.current.version.job, self.data)
        self.asking = Asking(App(self.champion, feedback=self.feedback))
        self.told = [rows([1, 2, 3, 4], [0, 1, 0, 1])]

    def lived(self, hours: list[float], late: list[int]) -> None:
        """Ask for rows and tell their labels."""
        table = rows(hours, late)
        asked = table.select(["at", "x", "carrier"]).to_pylist()
        status, answer = self.asking.rows(*asked)
        assert status == 200, answer
        labels = [
            {"id": name, "label": row["late"], "known": row["known"], "gain": row["gain"], "seen": row["seen"]}
            for name, row in zip(answer["ids"], table.to_pylist(), strict=True)
        ]
        body = json.dumps({"feedback": labels}).encode()
        told = self.asking.post(body, path="/feedback")
        assert told == (200, b'{"accepted":%d,"refused":[]}' % len(labels))
        self.told.append(table)

    def answers(self, *rows: dict[str, Any]) -> list[float]:
        status, answer = self.asking.rows(*rows)
        assert status == 200, answer
        return [one["probability"] for one in answer["predictions"]]

    def expected(self, *rows: dict[str, Any]) -> list[float]:
        """What the champion's weights say where all that was told is known."""
        version = Version.load(self.out)
        encoder, rates = version.job.encoder, version.job.rates()
        history = History(rates)
        for table in self.told:
            history = history.plus(outcomes_of(table, "told", encoder, rates, predict_at="at", label_at="known"))
        version.history = history.table()
        found: list[float] = version.predict(pa.Table.from_pylist(list(rows)))["probability"].to_pylist()
        return found

    def learn(self) -> None:
        self.feedback.write()
        run(self.job, self.out)
        self.champion.look()


QUESTIONS: list[dict[str, Any]] = [
    {"at": f"2020-01-01T{hour:02}:40:00", "x": 0.5, "carrier": carrier}
    for hour in (9, 10, 14)
    for carrier in ("AA", "UA")
]


def test_what_was_told_counts_at_once_and_once_however_often_the_champion_changes(loop: Loop) -> None:
    before = loop.answers(*QUESTIONS)
    assert before == loop.expected(*QUESTIONS)
    loop.lived([5, 5.2, 5.4, 6.1, 6.2], [1, 1, 1, 1, 0])
    assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS)
    assert loop.answers(*QUESTIONS)[1] != before[1]
    odd = [{**row, "x": "0.5"} for row in QUESTIONS]  # takes the way of a table
    assert loop.answers(*odd) == loop.expected(*QUESTIONS)
    first = loop.champion.current.version.number
    loop.lived([8.0], [0])  # what was known before seven is in a file now
    loop.learn()
    assert loop.champion.current.version.number > first
    assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS)
    loop.lived([9.05], [1])
    loop.learn()
    assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS)
    # And the same of a server that begins now, and after going back.
    again = Champion(loop.out)
    loop.feedback.attend(again)
    assert [one["probability"] for one in again.predict(QUESTIONS)["predictions"]] == loop.expected(*QUESTIONS)


def test_outcomes_that_are_set_aside_do_not_count(loop: Loop) -> None:
    first = loop.champion.current.version.number
    loop.lived([5, 5.2, 5.4, 6.1, 6.2], [1, 1, 1, 1, 0])
    loop.lived([8.0], [0])  # which is known later than all that is learned
    loop.learn()
    counted = loop.answers(*QUESTIONS)
    assert counted == loop.expected(*QUESTIONS)
    Run(loop.out).rollback(first, drop=True)
    loop.champion.look()
    del loop.told[1]
    assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS) != counted
    loop.lived([9.05], [1])
    loop.learn()  # and in versions after that
    assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS)


def test_a_champion_that_has_learned_no_row_may_begin(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    table = rows([1, 2], [0, 1])
    never = pa.nulls(2, pa.string())
    pq.write_table(table.set_column(1, "known", never).set_column(2, "seen", never), data / "a.parquet")
    assert run(job(data), tmp_path / "run").summary.rows_learned == 0
    champion = Champion(tmp_path / "run")
    feedback = Feedback(SqliteJournal(tmp_path / "journal"), champion.current.version.job, data)
    feedback.attend(champion)
    assert feedback.live is not None
    feedback.close()


def test_many_labels_are_put_in_order_together(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incr_core.serving._live_rates.MANY", 3)
    for place in range(4):
        loop.lived([5 + place / 10, 5.05 + place / 10], [place % 2, 1])
        assert loop.answers(*QUESTIONS) == loop.expected(*QUESTIONS)


def test_a_stream_that_reads_other_files_has_the_rates_of_its_commits(loop: Loop) -> None:
    loop.feedback.folder = loop.out / "elsewhere"
    loop.feedback.live = None
    loop.champion = Champion(loop.out)
    loop.asking.close()
    loop.asking = Asking(App(loop.champion, feedback=loop.feedback))
    before = loop.answers(*QUESTIONS)
    loop.lived([5, 5.2, 5.4], [1, 1, 1])
    assert loop.answers(*QUESTIONS) == before
