"""The reference of the job file: every key is described, `incr explain` and docs/job.md say what the sections say."""

from __future__ import annotations

import json

import pytest

from incr_core.commands.cli import main
from incr_core.commands.explain import explained
from incr_core.errors import ArgumentError, JobError
from incr_core.job._file import JobFile
from tools.job_reference import DATA, PAGE, entries, page

KEYS = dict(entries())


def test_every_key_is_described_in_sentences() -> None:
    assert len(KEYS) > 150
    assert [key for key, entry in KEYS.items() if not entry["text"].endswith((".", "`"))] == []


def test_the_reference_is_that_of_the_sections() -> None:
    assert json.loads(DATA.read_text()) == KEYS, "run `python -m tools.job_reference`"
    text = PAGE.read_text()
    assert page(text, KEYS) == text, "run `python -m tools.job_reference`"


def test_every_section_has_its_place_on_the_page() -> None:
    text = PAGE.read_text()
    top = [key for key in KEYS if "." not in key and key not in ("name", "root")]
    assert [key for key in top if f"## [{key}]" not in text and f"## [[{key}]]" not in text] == []
    assert [key for key in KEYS if f"| `{key}` |" not in text and f"| `{key.partition('.')[2]}` |" not in text] == [
        key for key in KEYS if key.startswith("features.rate.")
    ]


def test_explain_prints_type_default_values_and_engines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "cluster.pace"]) == 0
    printed = capsys.readouterr().out
    for line in ('type     "rows" or "time"', 'default  "rows"', "engines  cluster\n"):
        assert line in printed
    assert "names    " in explained("outer")
    assert "nesterov" in explained("outer")
    assert "[" not in explained("learner.seed")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_explained(key: str) -> None:
    assert explained(key).startswith(f"{key}\n")


def test_an_argument_of_a_named_part_is_explained_by_the_part() -> None:
    assert explained("learner.optimizer.lr") == explained("learner.optimizer")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("stream.evry", r"did you mean stream\.every\?"),
        ("batch_size", r"did you mean learner\.batch_size\?"),
        ("nothing.like.it", "lists all sections"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(ArgumentError, match=near):
        explained(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"objective": "binary", "batch_size": 0.5}}, r"; see: incr explain learner\.batch_size$"),
        ({"stream": {"path": "x", "batch_size": 3}}, r"unknown key; did you mean learner\.batch_size\?$"),
        ({"stream": {"path": "x", "zzz": 3}}, "known keys: path, .*; see: incr explain stream$"),
        ({"features": {}}, r"features\.label: missing; the job needs it; see: incr explain features\.label$"),
    ],
)
def test_a_fault_of_a_job_says_how_to_read_more(changes: dict[str, object], message: str) -> None:
    whole = {"stream": {"path": "x"}, "features": {"label": "y"}, "learner": {"objective": "binary"}}
    with pytest.raises(JobError, match=message):
        JobFile.from_document({**whole, **changes})
