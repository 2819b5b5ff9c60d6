"""The journal, in SQLite and in PostgreSQL: what is acknowledged outlives a kill, and what is dropped is counted."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("httptools")

from incr_core.errors import ArgumentError, StorageError
from incr_core.serving import Journal, SqliteJournal, erase_in_journal, open_journal

ROWS = [({"height": 170 + place}, {"value": float(place)}) for place in range(10)]


class InFolder:
    """Journals of SQLite."""

    def __init__(self, folder: Path) -> None:
        self.place: str | Path = folder / "journal"
        self._folder, self._copies = folder, 0

    def killed(self, journal: Journal) -> Journal:
        """The journal as the process finds it that takes the place of a killed one: nothing was closed."""
        self._copies += 1
        copy = self._folder / f"copy-{self._copies}"
        shutil.copytree(self.place, copy)
        (copy / ".leader").unlink(missing_ok=True)
        return SqliteJournal(copy, most=journal.most)


class InDatabase:
    """Journals of PostgreSQL."""

    def __init__(self, server: Any) -> None:
        self.place: str | Path = server.url
        self._server = server
        server.query("DROP SCHEMA IF EXISTS incr CASCADE")

    def killed(self, journal: Journal) -> Journal:
        """The journal as another process finds it once the sessions of a killed one have ended."""
        sessions = "FROM pg_stat_activity WHERE usename = 'tester' AND pid <> pg_backend_pid()"
        self._server.query(f"SELECT pg_terminate_backend(pid, 10000) {sessions}")
        return open_journal(self.place, most=journal.most)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    pytest.importorskip("psycopg")
    from tests.support.postgres import postgres

    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def kept_in(request: pytest.FixtureRequest, tmp_path: Path) -> InFolder | InDatabase:
    if request.param == "sqlite":
        return InFolder(tmp_path)
    return InDatabase(request.getfixturevalue("server"))


def test_predictions_and_labels_outlive_a_kill(kept_in: InFolder | InDatabase) -> None:
    journal = open_journal(kept_in.place)
    ids = journal.record(ROWS, version=3)
    assert journal.label([(ids[2], {"label": 1}), (ids[5], {"label": 0})]) == [True, True]
    after = kept_in.killed(journal)
    found = after.rows(ids)
    assert [found[name].row for name in ids] == [row for row, _ in ROWS]  # type: ignore[union-attr]
    assert after.label([(ids[2], {"label": 7}), (ids[3], {"label": 1})]) == [False, True]
    [(number, rows)] = after.due()
    assert [(one.row["height"], one.told) for one in rows] == [
        (172, {"label": 1}),
        (175, {"label": 0}),
        (173, {"label": 1}),
    ]
    # New ids go on behind those before.
    assert not set(after.record(ROWS, version=4)) & set(ids)
    after.written(number)
    assert list(after.due()) == []
    after.close()
    journal.close()


def test_a_file_that_was_dealt_has_the_same_rows_after_a_kill(kept_in: InFolder | InDatabase) -> None:
    journal = open_journal(kept_in.place)
    ids = journal.record(ROWS, version=3)
    journal.label([(name, {"label": 1}) for name in ids[:4]])
    before = [(number, [one.row for one in rows]) for number, rows in journal.due(most=3)]
    assert [(number, len(rows)) for number, rows in before] == [(1, 3), (2, 1)]
    after = kept_in.killed(journal)
    after.label([(ids[7], {"label": 1})])
    again = [(number, [one.row for one in rows]) for number, rows in after.due()]
    assert again == [*before, (3, [{"height": 177}])]
    for number in (1, 2, 3):
        after.written(number)
    assert list(after.due()) == []
    after.close()
    journal.close()


def test_the_oldest_are_dropped_and_counted_but_never_an_unwritten_label(kept_in: InFolder | InDatabase) -> None:
    journal = open_journal(kept_in.place, most=20)
    first = journal.record(ROWS, version=1)
    journal.label([(first[4], {"label": 1})])
    for _ in range(5):
        journal.record(ROWS, version=1)
    journal.tidy()
    # Up to the label that is in no file yet.
    assert journal.floor == 4
    assert journal.rows([first[3]]) == {first[3]: None}
    assert journal.label([(first[3], {"label": 1})]) == [False]
    [(number, rows)] = journal.due()
    assert [one.row for one in rows] == [{"height": 174}]
    journal.written(number)
    journal.tidy()
    assert journal.floor == 40
    kept = journal.kept()
    assert (kept.predicted, kept.labelled, kept.waiting, kept.dropped) == (60, 1, 20, 39)
    # Places of labels and numbers of files are not given again, now or after the next start.
    journal.close()
    again = open_journal(kept_in.place, most=20)
    assert again.kept() == kept
    [name, *_] = again.record(ROWS[:1], version=1)
    assert again.label([(name, {"label": 0})]) == [True]
    assert [number for number, _ in again.due()] == [2]
    again.close()


def test_a_file_is_known_while_one_of_its_labels_is_kept(kept_in: InFolder | InDatabase) -> None:
    journal = open_journal(kept_in.place, most=20)
    ids = journal.record(ROWS, version=1)
    for places in ([9, 3, 0], [8], [7]):
        journal.label([(ids[place], {"label": 1}) for place in places])
        if places == [8]:
            journal.label([(ids[2], {"label": 1})])
        if places[0] == 9:  # a place that is in no file, and stays
            assert erase_in_journal(kept_in.place, where="height=173") == {"predictions": 1, "labels": 1}
        for number, _ in journal.due():
            journal.written(number)
    journal.record([*ROWS, *ROWS][:15], version=1)
    journal.tidy()
    assert journal.floor == 5
    assert [journal.places(number) for number in (1, 2, 3)] == [(1, 4), (4, 6), (6, 7)]
    address = pa.table({"fragment": [f"feedback-{journal.mark}-000002.parquet"], "offset": [0]})
    assert erase_in_journal(kept_in.place, rows=address) == {"predictions": 1, "labels": 1}
    # Once all of its labels are dropped it goes, and the erased place keeps it not; the newest stays.
    journal.record([*ROWS, *ROWS], version=1)
    journal.tidy()
    assert journal.floor == 25
    assert [journal.places(number) for number in (1, 2, 3)] == [(1, 1), (1, 1), (6, 7)]
    journal.close()


def test_it_stays_small_in_bytes_too(kept_in: InFolder | InDatabase, tmp_path: Path) -> None:
    journal = open_journal(kept_in.place, most_bytes=400_000)
    rows = [({"text": "x" * 1000}, {"value": 1.0})] * 20
    for _ in range(60):
        journal.record(rows, version=1)
        journal.tidy()
    assert journal.kept().dropped > 500
    journal.close()
    if isinstance(kept_in, InFolder):
        assert (tmp_path / "journal" / "journal.sqlite").stat().st_size < 1_000_000


def test_ids_of_another_journal_and_texts_that_are_none_are_unknown(
    kept_in: InFolder | InDatabase, tmp_path: Path
) -> None:
    one, other = open_journal(kept_in.place), SqliteJournal(tmp_path / "other")
    [mine], [yours] = one.record(ROWS[:1], version=1), other.record(ROWS[:1], version=1)
    for name in (yours, "", "-", mine[:9], mine[:9] + "0", mine[:9] + "2", mine[:9] + "-1", mine[:9] + "1" * 400, "7"):
        assert one.rows([name]) == {}, name
        assert one.label([(name, {"label": 1})]) == [False]
    assert one.rows([mine])[mine] is not None
    one.close()
    other.close()


def test_several_processes_share_a_journal_and_one_leads(kept_in: InFolder | InDatabase) -> None:
    journals = [open_journal(kept_in.place, most=1000) for _ in range(3)]
    found: list[list[str]] = [[] for _ in journals]

    def record(place: int) -> None:
        for _ in range(30):
            found[place] += journals[place].record(ROWS[:2], version=place)

    threads = [threading.Thread(target=record, args=[place]) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [name for some in found for name in some]
    assert len(set(ids)) == 180
    assert [journal.kept().predicted for journal in journals] == [180] * 3
    # A label comes to another process than its prediction, at once from all: one of them is new.
    new = [journal.label([(name, {"label": 1}) for name in ids[:60]]) for journal in journals]
    assert new == [[True] * 60, [False] * 60, [False] * 60]
    # Labels of different rows that arrive at the same time are all kept, at places without a gap.
    with ThreadPoolExecutor(3) as pool:
        accepted = [
            pool.submit(journals[place % 3].label, [(name, {"label": 0})]) for place, name in enumerate(ids[60:])
        ]
    assert [one.result() for one in accepted] == [[True]] * 120
    assert [place for place, _ in journals[2].labelled(0)] == [*range(1, 181)]
    assert [journal.lead() for journal in journals] == [True, False, False]
    with pytest.raises(StorageError, match="expected to lead this journal"):
        list(journals[1].due())
    [(number, rows)] = journals[0].due()
    assert len(rows) == 180
    journals[0].close()
    # The next leader has the same file to write.
    assert journals[1].lead(30)
    assert not journals[2].lead()
    assert [(again, len(rows)) for again, rows in journals[1].due()] == [(number, 180)]
    journals[1].written(number)
    assert list(journals[1].due()) == []
    for journal in journals[1:]:
        journal.close()


def test_a_journal_that_cannot_be_written_is_named_and_goes_on_once_it_can(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        SqliteJournal(tmp_path / "file" / "journal")
    journal = SqliteJournal(tmp_path / "journal")
    [name] = journal.record(ROWS[:1], version=1)
    for connection in (journal._predicting, journal._labelling):
        [[pages]] = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count={pages}")  # as a full disk
    big = [({"text": "x" * 100_000}, {"value": 1.0})]
    with pytest.raises(StorageError, match="full"):
        journal.record(big, version=1)
    with pytest.raises(StorageError, match="full"):
        journal.label([(name, {"label": "x" * 100_000})])
    for connection in (journal._predicting, journal._labelling):
        connection.execute("PRAGMA max_page_count=1000000")
    [after] = journal.record(big, version=1)
    assert int(after[9:], 16) == int(name[9:], 16) + 1
    assert journal.label([(name, {"label": 1})]) == [True]
    journal.close()
    with sqlite3.connect(tmp_path / "journal" / "journal.sqlite") as read:
        assert read.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("place", ["mysql://anna:secret@db/flights", "postgres:/db/flights", "s3://bucket/journal"])
def test_an_address_of_something_else_is_no_folder(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArgumentError, match=r'expected a folder or "postgresql://USER@HOST/DATABASE", got an'
    ) as caught:
        open_journal(place)
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())
