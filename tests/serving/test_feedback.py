"""Predictions get ids, labels find them, and both become rows that a stream reads: each once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")

from incr_core.commands.cli import main
from incr_core.data.times import SECOND
from incr_core.errors import StorageError
from incr_core.job import Job
from incr_core.runs import Run, run
from incr_core.serving import App, Champion, Feedback, JournalledRow, RequestError, SqliteJournal, erase_in_journal
from incr_core.serving._labelled_rows import LabelledRows
from tests.support.asked import ROW, Asking, learned, learned_folder
from tests.support.objective_jobs import counted, job


class Served:
    """A server of a run with a journal, asked in this process."""

    def __init__(self, directory: Path, folder: Path, **limits: Any) -> None:
        champion = Champion(directory)
        job = champion.current.version.job
        self.labelled = folder / "labelled"
        self.feedback = Feedback(SqliteJournal(folder / "journal", **limits), job, self.labelled)
        self.app = App(champion, feedback=self.feedback)
        self.asking = Asking(self.app)

    def predict(self, *rows: Any) -> Any:
        status, answer = self.asking.rows(*rows)
        assert status == 200, answer
        return answer

    def tell(self, document: Any) -> tuple[int, Any]:
        status, body = self.asking.post(json.dumps(document).encode(), path="/feedback")
        return status, json.loads(body)

    def metrics(self) -> dict[str, float]:
        status, body = self.asking.get("/metrics")
        assert status == 200
        lines = [line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def files(self) -> pa.Table:
        self.feedback.write()
        return pa.concat_tables([pq.read_table(path) for path in sorted(self.labelled.glob("*.parquet"))])

    def close(self) -> None:
        self.asking.close()
        self.app.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("asked"), every=20)


@pytest.fixture
def served(directory: Path, tmp_path: Path) -> Iterator[Served]:
    made = Served(directory, tmp_path)
    yield made
    made.close()


def test_a_label_joins_its_row_with_both_times(served: Served) -> None:
    answer = served.predict(ROW, {**ROW, "at": "soon"}, {**ROW, "height": None, "colour": 7})
    assert [name is None for name in answer["ids"]] == [False, True, False]
    one, _, other = answer["ids"]
    assert served.tell({"id": other, "label": 1}) == (200, {"accepted": 1, "refused": []})
    late = {"id": one, "label": 0, "label_at": "2020-01-01T05:00:00"}
    assert served.tell({"feedback": [late]}) == (200, {"accepted": 1, "refused": []})
    table = served.files()
    assert table.schema.names == ["height", "image", "colour", "at", "y", "label_at"]
    assert table["height"].to_pylist() == [None, 170.5]
    assert table["image"].to_pylist() == [ROW["image"]] * 2
    assert table["colour"].to_pylist() == ["7", "red"]
    assert table["y"].to_pylist() == [1, 0]
    assert [str(time) for time in table["at"].to_pylist()] == ["2020-01-01 03:00:00"] * 2
    known = table["label_at"].cast(pa.int64()).to_pylist()
    assert known[0] > 1_700_000_000 * SECOND
    assert known[1] == 1577854800 * SECOND
    # Nothing is written twice.
    assert len(served.files()) == 2


def test_a_row_whose_time_no_label_could_use_is_refused(tmp_path: Path) -> None:
    """The model of this run does not look at times, so nothing else reads them before the label comes."""
    served = Served(learned_folder(tmp_path)[0], tmp_path)
    known: list[Any] = ["2020-01-01T03:00", "2020-01-01T03:00Z", 1577847600, None]
    unknown: list[Any] = ["soon", "", True, [1], {}]
    for times in (["2020-01-01", "soon"], [*known, *unknown]):
        answer = served.predict(*[{**ROW, "predicted_at": time} for time in times])
        bad = [place for place, time in enumerate(times) if time in unknown]
        reason = "expected a time, got another value"
        assert answer["refused"] == [{"row": place, "column": "predicted_at", "reason": reason} for place in bad]
        for listed in ("predictions", "ids"):
            assert [place for place, one in enumerate(answer[listed]) if one is None] == bad
        for name in filter(None, answer["ids"]):
            assert served.tell({"id": name, "label": 1, "label_at": "2030-01-01"})[0] == 200
    served.close()


def test_what_is_of_no_use_is_counted_and_refused_in_a_line(served: Served) -> None:
    [one, other] = served.predict(ROW, ROW)["ids"]
    assert served.tell({"id": one, "label": 1})[0] == 200
    unknown = 404, {"detail": "id: expected one of a prediction in this journal, got another"}
    refused: list[tuple[Any, int]] = [
        ({"id": one, "label": 0}, 409),
        ({"id": "x", "label": 0}, 404),
        ({"id": 7, "label": 0}, 404),
        ({"label": 0}, 404),
        ({"id": other, "label": "yes"}, 422),
        ({"id": other, "label": 2}, 422),
        ({"id": other, "label": None}, 422),
        ({"id": other}, 422),
        ({"id": other, "label": [1]}, 422),
        ({"id": other, "label": {"a": 1}}, 422),
        ({"id": other, "label": 10**400}, 422),
        ({"id": other, "label": "\ud800"}, 422),
        ({"id": other, "label": 1, "height": 3}, 422),
        ({"id": other, "label": 1, "label_at": "2019-12-31"}, 422),
        ({"id": other, "label": 1, "label_at": "soon"}, 422),
        ({"feedback": []}, 422),
        ({"feedback": [7]}, 422),
        ([], 422),
    ]
    assert 'or {"id": ..., "label": ...} alone' in served.tell({"feedback": {"id": other, "label": 1}})[1]["detail"]
    for document, status in refused:
        found = served.tell(document)
        assert found[0] == status, (document, found)
        assert len(found[1]["detail"]) < 300
    assert served.tell({"id": "x", "label": 0}) == unknown
    assert served.tell(
        {"feedback": [{"id": one, "label": 1}, {"id": other, "label": 0}, {"id": other, "label": 0}]}
    ) == (
        200,
        {
            "accepted": 1,
            "refused": [
                {
                    "feedback": 0,
                    "status": 409,
                    "reason": "id: expected one without a label, got one that has its label",
                },
                {
                    "feedback": 2,
                    "status": 409,
                    "reason": "id: expected one without a label, got one that has its label",
                },
            ],
        },
    )
    assert len(served.files()) == 2
    metrics = served.metrics()
    outcomes = {name: metrics[f'incr_feedback_total{{outcome="{name}"}}'] for name in served.feedback.counts}
    assert outcomes == {"accepted": 2, "unknown": 4, "gone": 0, "repeated": 3, "wrong": 11}
    assert metrics["incr_journal_predictions_total"] == 2
    assert metrics["incr_rows_total"] == 2
    assert metrics['incr_requests_total{path="/feedback",status="409"}'] == 1


def test_a_class_may_be_written_as_the_stream_takes_it_and_what_is_none_is_refused(served: Served) -> None:
    labels: list[Any] = [1, 1.0, "1", True, False, "true", "1.0", -0.0, 0.5, 1e300, [], {}, [True], " 1"]
    answers = [served.tell({"id": name, "label": label}) for label in labels for name in served.predict(ROW)["ids"]]
    accepted = [label for label, (status, _) in zip(labels, answers, strict=True) if status == 200]
    assert {status for status, _ in answers} == {200, 422}
    assert accepted[:3] == [1, 1.0, "1"]
    assert served.files()["y"].to_pylist() == [1 if label == "true" else int(float(label)) for label in accepted]


def test_values_that_are_written_in_several_ways_are_one_column(served: Served) -> None:
    rows = [ROW, {**ROW, "height": "171.5", "at": 1577847600}, {**ROW, "height": "", "at": "2020-01-01T04:00:00Z"}]
    ids = [served.predict(row)["ids"][0] for row in rows]
    assert served.tell({"feedback": [{"id": name, "label": "1"} for name in ids]})[1]["accepted"] == 3
    table = served.files()
    assert table["height"].to_pylist() == [170.5, 171.5, None]
    assert [str(time) for time in table["at"].to_pylist()] == [
        "2020-01-01 03:00:00",
        "2020-01-01 03:00:00",
        "2020-01-01 04:00:00",
    ]
    assert table["y"].to_pylist() == [1, 1, 1]


def test_predictions_that_are_too_old_are_gone_and_counted(directory: Path, tmp_path: Path) -> None:
    served = Served(directory, tmp_path, most=5)
    [first] = served.predict(ROW)["ids"]
    served.predict(*[ROW] * 9)
    served.feedback.write()
    assert served.tell({"id": first, "label": 1})[0] == 410
    assert served.metrics()["incr_journal_dropped_total"] == 5
    served.close()


def test_a_prediction_that_goes_while_its_label_comes_is_gone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    [one, _] = served.predict(ROW, ROW)["ids"]
    journal, found = served.feedback.journal, served.feedback.journal.rows

    def row_then_none(names: Any) -> Any:
        row = found(names)
        journal.most = 1
        journal.tidy()
        return row

    monkeypatch.setattr(journal, "rows", row_then_none)
    assert served.tell({"id": one, "label": 1})[0] == 410
    assert (served.feedback.counts["gone"], served.feedback.counts["repeated"]) == (1, 0)


def test_rows_of_a_tick_are_written_once_it_is_over(tmp_path: Path) -> None:
    served = Served(learned(tmp_path, every="1h"), tmp_path)
    ids = served.predict(*[{**ROW, "height": place} for place in range(6)])["ids"]
    hours = [None, "03:10", "03:50", "04:00", "04:20", "03:55", "05:00"]
    for place, hour in enumerate(hours[1:]):
        label = {"id": ids[place], "label": 1, "label_at": f"2020-01-01T{hour}"}
        assert served.tell(label)[0] == 200
        served.feedback.write()
        files = sorted(served.labelled.glob("*.parquet"))
        # What is known in a tick is in one file, but for what is told late.
        expected = {"03:10": [], "03:50": [], "04:00": [2], "04:20": [2], "03:55": [2], "05:00": [2, 3]}
        assert [len(pq.read_table(path)) for path in files] == expected[str(hour)]
    assert pq.read_table(files[1])["height"].to_pylist() == [2, 3, 4]
    served.close()
    assert len(list(served.labelled.glob("*.parquet"))) == 2  # the tick that is not over waits in the journal
    again = Served(tmp_path / "run", tmp_path)
    assert again.tell({"id": again.predict(ROW)["ids"][0], "label": 0, "label_at": "2020-01-01T06:30"})[0] == 200
    assert again.files()["height"].to_pylist() == [*range(6)]
    again.close()


def test_a_time_far_ahead_does_not_keep_ticks_from_being_over(tmp_path: Path) -> None:
    served = Served(learned(tmp_path, every="1h"), tmp_path)
    ids = served.predict(*[{**ROW, "height": place} for place in range(6)])["ids"]
    far, known = "2090-01-01T00:00", ["03:10", "04:00", "04:20", "05:00"]
    for place, time in enumerate([far, *(f"2020-01-01T{hour}" for hour in known)]):
        assert served.tell({"id": ids[place], "label": 1, "label_at": time})[0] == 200
        served.feedback.write()
    # It is in a file with others, or the stream could not see that it leaps.
    files = [pq.read_table(path)["height"].to_pylist() for path in sorted(served.labelled.glob("*.parquet"))]
    assert files == [[0, 1], [2, 3]]
    served.close()


def test_no_label_is_kept_of_a_row_that_is_erased_while_it_comes(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [one] = served.predict({**ROW, "colour": "secret"})["ids"]
    journal, found = served.feedback.journal, served.feedback.journal.rows

    def row_then_none(names: Any) -> Any:
        row = found(names)
        erase_in_journal(tmp_path / "journal", where="colour=secret")
        return row

    monkeypatch.setattr(journal, "rows", row_then_none)
    assert served.tell({"id": one, "label": 1})[0] == 410
    assert (served.feedback.counts["gone"], served.feedback.counts["accepted"]) == (1, 0)
    assert journal.kept().labelled == 0


def test_an_erasure_reaches_the_journal_while_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = learned(tmp_path, every=20)
    served = Served(directory, tmp_path)
    secret = {**ROW, "colour": "secret-of-7", "height": 7.25}
    ids = served.predict(ROW, secret, ROW, secret, ROW, secret)["ids"]
    told = [{"id": name, "label": 1} for name in ids]
    assert served.tell({"feedback": told[:2]})[1]["accepted"] == 2
    assert len(served.files()) == 2
    assert served.tell({"feedback": told[2:4]})[1]["accepted"] == 2
    journal = str(tmp_path / "journal")
    assert main(["forget", str(directory), "--where", "colour=secret-of-7", "--journal", journal, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["journal"] == {"predictions": 3, "labels": 2}
    for path in (tmp_path / "journal").glob("journal.sqlite*"):
        assert b"secret-of-7" not in path.read_bytes(), path
    assert served.tell(told[5])[0] == 410
    assert served.tell(told[1])[0] == 410
    assert served.tell(told[4])[0] == 200
    # What was written stays as it was, and of the rest the erased row is left out.
    assert served.files()["colour"].to_pylist() == ["red", "secret-of-7", "red", "red"]
    # By addresses, of which an erasure before has changed nothing.
    [name] = sorted(path.name for path in served.labelled.glob("*2.parquet"))
    table = pa.table({"fragment": [name, "feedback-other-000001.parquet"], "offset": [1, 0]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert erase_in_journal(tmp_path / "journal", rows=table) == {"predictions": 1, "labels": 1}
    assert served.tell(told[4])[0] == 410
    assert served.tell(told[2])[0] == 409
    served.close()
    again = Served(directory, tmp_path)
    assert again.tell({"id": again.predict(secret)["ids"][0], "label": 1})[0] == 200
    again.close()


def test_an_erasure_names_what_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="expected the folder of a journal, found none"):
        erase_in_journal(tmp_path, where="a=1")


def weighed(folder: Path) -> LabelledRows:
    """What checks the labels of a job whose rows have weights."""
    pq.write_table(pa.table({"x": [1.0, 2.0], "y": [0, 1], "w": [1.0, 0.5]}), folder / "rows.parquet")
    document = {
        "stream": {"path": str(folder / "rows.parquet")},
        "features": {"label": "y", "numeric": ["x"], "weight": "w"},
        "model": {"hidden": [4]},
        "learner": {"objective": "binary"},
    }
    return LabelledRows(Job.from_document(document).resolved(), zoned=False)


@pytest.mark.parametrize("weight", [None, -1, "1", math.nan, math.inf, 10**400, [], {}])
def test_a_weight_that_is_none_is_refused(tmp_path: Path, weight: Any) -> None:
    rows = weighed(tmp_path)
    assert rows.checked({"id": "a-1", "label": 1, "w": 0.5}, JournalledRow({"x": 1.0}, at=1)) == {"y": 1, "w": 0.5}
    with pytest.raises(RequestError, match=r"w: expected"):
        rows.checked({"id": "a-1", "label": 1, "w": weight}, JournalledRow({"x": 1.0}, at=1))


@pytest.mark.parametrize("label", [7, "1 2", [], [1.0], [True], ["1"], [[1]], {"a": 1}, None])
def test_a_label_of_tokens_is_a_list_of_them(tmp_path: Path, label: Any) -> None:
    pq.write_table(counted(), tmp_path / "text.parquet")
    rows = LabelledRows(
        job(tmp_path / "text.parquet", "words", "next_token", features={"vocabulary": 11}).resolved(), zoned=False
    )
    of = JournalledRow({"words": [1, 2]}, at=1)
    assert rows.checked({"id": "a-1", "label": [1, 2, 3]}, of) == {"words": [1, 2, 3]}
    with pytest.raises(RequestError, match=r"label: expected"):
        rows.checked({"id": "a-1", "label": label}, of)


def test_a_run_learns_the_rows_that_were_predicted(tmp_path: Path) -> None:
    out = learned(tmp_path, every=20)
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "rows.parquet").rename(data / "a.parquet")
    document = json.loads(json.dumps(Run(out).job.document()))
    document["stream"] |= {"path": str(data), "label_at": "label_at"}
    table = pq.read_table(data / "a.parquet")
    pq.write_table(table.append_column("label_at", table["at"]), data / "a.parquet")
    run(Job.from_document(document).resolved(), tmp_path / "followed")
    served = Served(tmp_path / "followed", tmp_path)
    served.feedback.folder = data
    rows = [{**ROW, "at": f"2020-01-03T{hour:02}:00:00", "height": 160 + hour} for hour in range(20)]
    ids = served.predict(*rows)["ids"]
    told = [{"id": name, "label": place % 2, "label_at": "2020-01-03T21:00:00"} for place, name in enumerate(ids)]
    assert served.tell({"feedback": told})[1]["accepted"] == 20
    served.feedback.write()
    before = len(pq.read_table(data / "a.parquet"))
    summary = run(Job.from_document(document).resolved(), tmp_path / "followed").summary
    assert summary.rows_learned == before + 20
    assert len(Run(tmp_path / "followed").table("quarantine")) == 0
    served.app.champion.look()
    assert served.predict(ROW)["version"] > 1
    served.close()
