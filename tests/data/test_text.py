"""Texts and times as inputs: the same buckets whatever type, file, chunk or way the rows come by."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from incr_core.data.encoding import ColumnHash, Encoder, PlainRows
from incr_core.data.encoding._dates import date_parts
from incr_core.data.encoding._text import text_buckets
from incr_core.errors import StreamError


def encoder(**changes: Any) -> Encoder:
    arguments = {"objective": "binary", "classes": None, "text": ["title", "body"], "text_words": 4} | changes
    return Encoder("y", ["x"], [], **arguments)


def buckets(*texts: Any, kind: pa.DataType | None = None, words: int = 4, count: int = 1000) -> Any:
    column = pa.chunked_array([pa.array(texts, kind)])
    return text_buckets(column, ColumnHash("title"), count, words, "stream.features.title in a.csv")


def hashed(word: str) -> int:
    key = blake2b(b"title", digest_size=16).digest()
    return int.from_bytes(blake2b(b"1" + word.encode(), digest_size=8, key=key).digest(), "little")


def paired(first: str, second: str) -> int:
    mixed = (hashed(first) * 0x9E3779B97F4A7C15 + hashed(second)) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31


def test_words_and_pairs_are_hashed_as_documented() -> None:
    """Another hash would spoil every model that was learned."""
    good, book, both = (1 + number % 999 for number in (hashed("good"), hashed("book"), paired("good", "book")))
    assert buckets("Good book", "book").tolist() == [[good, book, both, 0, 0, 0, 0], [book, 0, 0, 0, 0, 0, 0]]


def test_case_marks_and_spaces_make_no_other_word_but_order_makes_another_pair() -> None:
    one, same, turned = buckets("Don't stop, NOW!", "  dont\tstop\nnow", "now stop dont")
    assert one.tolist() == same.tolist()
    assert one.tolist() != turned.tolist()
    assert sorted(one[:3]) == sorted(turned[:3])
    assert not {*one[3:5]} & {*turned[3:5]}


def test_what_has_no_word_is_all_zeros() -> None:
    assert not buckets(None, "", "  ", "?! ...").any()
    assert buckets(None, None).shape == (2, 7)
    assert buckets().shape == (0, 7)


def test_a_text_has_the_same_words_whatever_stands_beside_it() -> None:
    every = "".join(map(chr, range(1, 128)))
    odd = f"It's 7 o'clock:{every}-{every}_end"
    assert buckets(odd, words=40)[0].tolist() == buckets(odd, "æ", words=40)[0].tolist()


def test_words_behind_so_many_are_left_out_and_a_very_long_text_costs_no_more_room() -> None:
    long = " ".join(f"w{number}" for number in range(50_000))
    short, cut = buckets("w0 w1 w2 w3", long)
    assert short.tolist() == cut.tolist()


def test_letters_of_scripts_without_spaces_are_words() -> None:
    assert (buckets("東京は", "😀😀", words=8, count=2**20) > 0).sum(1).tolist() == [5, 3]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", "8", None]),
        pa.array([7, 8, None]),
        pa.array([7.0, 8.0, None]),
        pa.array([b"7", b"8", None]),
        pa.array(["7", "8", None], pa.large_string()),
        pa.array(["7", "8", None]).dictionary_encode(),
        pa.chunked_array([["7"], ["8", None]]),
    ],
    ids=lambda column: str(column.type),
)
def test_the_type_in_a_file_does_not_matter(column: Any) -> None:
    given = pa.table({"title": column, "body": ["a b", "c", ""], "x": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    plain = given.set_column(0, "title", pa.array(["7", "8", None]))
    found, expected = (encoder().encode(table, torch.arange(3), "a.csv").batch.inputs for table in (given, plain))
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert torch.equal(found["text"], expected["text"])
    assert not encoder().encode(given, torch.arange(3), "a.csv").bad


def test_bytes_that_are_no_text_are_read_all_the_same() -> None:
    assert (buckets(b"caf\xe9 bar", kind=pa.binary()) > 0).sum() >= 3


def test_a_column_of_lists_is_no_text() -> None:
    with pytest.raises(StreamError, match=r"stream.features.title in a.csv: expected text, got list<item: int64>"):
        buckets([1, 2])


def test_rows_of_a_request_have_the_bits_of_a_table() -> None:
    titles: list[Any] = ["Very good, very", None, "", 7, 7.5, True, "rød grød", "don’t", "x " * 40]
    rows = [{"title": title, "body": "one two", "x": 1.0} for title in titles]
    made = encoder()
    columns = {"title": [None if t is None else str(t).lower() if t is True else str(t) for t in titles]}
    table = pa.table({**columns, "body": ["one two"] * len(rows), "x": [1.0] * len(rows), "y": [0] * len(rows)})
    found, expected = PlainRows(made).inputs(rows), made.encode(table, torch.arange(len(rows)), "a.csv").batch.inputs
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in expected.items()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert PlainRows(made).inputs([{"title": ["no"], "body": "", "x": 1.0}]) is None


def test_an_empty_batch_has_the_shape_of_others() -> None:
    table = pa.table({"title": ["a b"], "body": ["c"], "x": [1.0], "y": [0]})
    found, empty = encoder().encode(table, torch.arange(1), "a.csv").batch.inputs, encoder().empty().inputs
    assert isinstance(found, dict)
    assert isinstance(empty, dict)
    assert {name: value.shape[1:] for name, value in found.items()} == {n: v.shape[1:] for n, v in empty.items()}
    assert empty["text"].shape == (0, 2, 7)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["2024-02-29 18:00", None]),
        pa.array([datetime(2024, 2, 29, 18), None], pa.timestamp("ns")),
        pa.array([datetime(2024, 2, 29, 18), None], pa.timestamp("s", "UTC")),
        pa.array([1709229600, None]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_time_is_its_days_and_where_in_day_week_and_year_it_is(column: Any) -> None:
    parts, faults = date_parts(pa.chunked_array([column]), "at", "day.csv")
    assert not faults
    assert np.isnan(parts[1]).all()
    days, *waves = parts[0]
    assert days == pytest.approx(19782.75)
    assert waves[:2] == pytest.approx([-1, 0], abs=1e-6)  # six in the evening: three quarters of a day
    assert waves[2:4] == pytest.approx([np.sin(2 * np.pi * 3.75 / 7), np.cos(2 * np.pi * 3.75 / 7)])  # a Thursday
    assert all(np.hypot(*waves[at : at + 2]) == pytest.approx(1) for at in (0, 2, 4))


def test_what_is_no_time_is_a_bad_row() -> None:
    made = encoder(text=[], date=["at"])
    table = pa.table({"x": [1.0, 2.0], "at": ["2024-01-01", "soon"], "y": [0, 1]})
    found = made.encode(table, torch.arange(2), "day.csv")
    assert [(row.offset, row.column, row.reason) for row in found.bad] == [(1, "at", "expected a time, got text")]
    assert isinstance(found.batch.inputs, torch.Tensor)
    assert found.batch.inputs.shape == (1, 8)
    assert made.places == {"x": range(1), "at": range(1, 8)}
