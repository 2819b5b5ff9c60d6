"""The pages, and the docstrings of packages that are listed as clean, avoid a list of words.

They are words of an older or a foreign style that readers stumble over. Extend `CLEAN` as packages are rewritten.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import pages
from tests.support.repository import ROOT

INSTEAD = {
    "anew": "again, or from scratch",
    "befall": "happen to",
    "befallen": "happened to",
    "befalls": "happens to",
    "dear": "expensive",
    "lay": "was",
    "lie": "are, or send false values",
    "lies": "is",
    "nobody": "no client, no process, no one",
    "one's": "your",
    "oneself": "yourself",
    "somebody": "a person, a user, another process",
    "tell": "say, show, report, send",
    "tells": "says, shows, reports, sends",
    "told": "said, shown, reported, sent",
    "whoever": "the person or process that",
    "whom": "a sentence with a subject",
    "whosoever": "the person or process that",
}
"""Word -> what to write."""

CLEAN = (
    *("tools", "tests/support/pages.py", "incr_core/commands/explain.py"),
    *("incr_core/data", "incr_core/drift", "incr_core/engines", "incr_core/job"),
    *("incr_core/learner", "incr_core/memories"),
    *("incr_core/metrics", "incr_core/models", "incr_core/numerics", "incr_core/objectives", "incr_core/privacy"),
    *("incr_core/registry", "incr_core/report", "incr_core/rounds", "incr_core/storage", "incr_core/strategies"),
    "incr_core/testing",
)
"""Files and folders whose docstrings are checked as pages are."""

CODE = re.compile(
    r"^```.*?^```|<!--.*?-->|^(?: {4,}|\t).*?$|`(?:[^`\n]|\n(?!\s*\n))*`|\]\([^)\n]*\)", re.DOTALL | re.MULTILINE
)
WORD = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """The text without code, at the same places."""
    return CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)


def found_in(text: str) -> Iterator[str]:
    """Each word of the list, with its line and what to write."""
    for number, line in enumerate(prose(text).splitlines(), 1):
        for word in WORD.findall(line):
            yield f"line {number}: {word!r}; write: {INSTEAD[word.lower()]}"


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module: of itself, of its classes and functions, and below its constants and fields."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield re.sub(r"(?m)^ *>>>.*$|^ *\.\.\. .*$", "", node.value.value)


@pytest.mark.parametrize("page", pages(), ids=named)
def test_a_page_avoids_the_words_of_the_list(page: Path) -> None:
    assert list(found_in(page.read_text())) == []


@pytest.mark.parametrize("place", CLEAN)
def test_docstrings_of_clean_packages_avoid_them_too(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files
    words = {named(file): list(found_in("\n".join(docstrings(file)))) for file in files}
    assert {name: found for name, found in words.items() if found} == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Nobody is told.", 2),
        ("`told` and\n\n    what lies here\n\n```\nanew\n```\n[x](whoever.md)", 0),
        ("The state lies in `DIR`,\nwhoever asks.", 2),
        ("Layers replay belief.", 0),
    ],
)
def test_a_word_is_found_in_prose_and_not_in_code(text: str, words: int) -> None:
    assert len(list(found_in(text))) == words
