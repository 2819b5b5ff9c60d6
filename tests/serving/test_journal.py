"""The journal: what is acknowledged is there after a kill, once, and what is dropped is counted."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("httptools")

from incr_core.errors import StorageError
from incr_core.serving import Journal, erase_in_journal

ROWS = [({"height": 170 + place}, {"value": float(place)}) for place in range(10)]


def killed(journal: Journal, folder: Path) -> Journal:
    """The journal as another process finds it that takes the place of a killed one: nothing was closed."""
    shutil.copytree(journal.folder, folder)
    return Journal(folder)


def test_predictions_and_labels_outlive_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one")
    ids = journal.record(ROWS, version=3)
    assert journal.label([(ids[2], {"label": 1}), (ids[5], {"label": 0})]) == [True, True]
    after = killed(journal, tmp_path / "two")
    assert [after.row(name).row for name in ids] == [row for row, _ in ROWS]  # type: ignore[union-attr]
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


def test_a_file_that_was_dealt_has_the_same_rows_after_a_kill(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one")
    ids = journal.record(ROWS, version=3)
    journal.label([(name, {"label": 1}) for name in ids[:4]])
    before = [(number, [one.row for one in rows]) for number, rows in journal.due(most=3)]
    assert [(number, len(rows)) for number, rows in before] == [(1, 3), (2, 1)]
    after = killed(journal, tmp_path / "two")
    after.label([(ids[7], {"label": 1})])
    again = [(number, [one.row for one in rows]) for number, rows in after.due()]
    assert again == [*before, (3, [{"height": 177}])]
    for number in (1, 2, 3):
        after.written(number)
    assert list(after.due()) == []
    after.close()
    journal.close()


def test_the_oldest_are_dropped_and_counted_but_never_an_unwritten_label(tmp_path: Path) -> None:
    journal = Journal(tmp_path, most=20)
    first = journal.record(ROWS, version=1)
    journal.label([(first[4], {"label": 1})])
    for _ in range(5):
        journal.record(ROWS, version=1)
    journal.tidy()
    # Up to the label that is in no file yet.
    assert journal.floor == 4
    assert journal.row(first[3]) is None
    assert journal.number(first[3]) is not None
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
    again = Journal(tmp_path, most=20)
    assert again.kept() == kept
    [name, *_] = again.record(ROWS[:1], version=1)
    assert again.label([(name, {"label": 0})]) == [True]
    assert [number for number, _ in again.due()] == [2]
    again.close()


def test_a_file_is_known_while_one_of_its_labels_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, most=20)
    ids = journal.record(ROWS, version=1)
    for places in ([9, 3, 0], [8], [7]):
        journal.label([(ids[place], {"label": 1}) for place in places])
        if places == [8]:
            journal.label([(ids[2], {"label": 1})])
        if places[0] == 9:  # a place that is in no file, and stays
            assert erase_in_journal(tmp_path, where="height=173") == {"predictions": 1, "labels": 1}
        for number, _ in journal.due():
            journal.written(number)
    journal.record([*ROWS, *ROWS][:15], version=1)
    journal.tidy()
    assert journal.floor == 5
    assert [journal.places(number) for number in (1, 2, 3)] == [(1, 4), (4, 6), (6, 7)]
    address = pa.table({"fragment": [f"feedback-{journal.mark}-000002.parquet"], "offset": [0]})
    assert erase_in_journal(tmp_path, rows=address) == {"predictions": 1, "labels": 1}
    # Once all of its labels are dropped it goes, and the erased place keeps it not; the newest stays.
    journal.record([*ROWS, *ROWS], version=1)
    journal.tidy()
    assert journal.floor == 25
    assert [journal.places(number) for number in (1, 2, 3)] == [(1, 1), (1, 1), (6, 7)]
    journal.close()


def test_it_stays_small_in_bytes_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path, most_bytes=400_000)
    rows = [({"text": "x" * 1000}, {"value": 1.0})] * 20
    for _ in range(60):
        journal.record(rows, version=1)
        journal.tidy()
    assert journal.kept().dropped > 500
    journal.close()
    assert (tmp_path / "journal.sqlite").stat().st_size < 1_000_000


def test_ids_of_another_journal_and_texts_that_are_none_are_unknown(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "one"), Journal(tmp_path / "other")
    [mine], [yours] = one.record(ROWS[:1], version=1), other.record(ROWS[:1], version=1)
    for name in (yours, "", "-", mine[:9], mine[:9] + "0", mine[:9] + "2", mine[:9] + "-1", mine[:9] + "1" * 400, "7"):
        assert one.number(name) is None, name
    assert one.row(mine) is not None
    with pytest.raises(StorageError, match="is the journal of another server"):
        Journal(tmp_path / "one")
    one.close()
    other.close()


def test_a_journal_that_cannot_be_written_is_named_and_goes_on_once_it_can(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal")
    journal = Journal(tmp_path / "journal")
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
