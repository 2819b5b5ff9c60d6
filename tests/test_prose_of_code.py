"""Word list for the prose of Python files: docstrings, comments and messages of packages that are rewritten."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CLEAN = [
    *("__init__.py", "batch.py", "errors.py", "shown.py", "update.py"),
    *("data", "drift", "engines", "learner", "loop", "memories", "metrics", "models", "numerics", "objectives"),
    *("estimators", "privacy", "registry", "report", "rounds", "runs", "storage", "strategies", "testing", "trackers"),
]
"""Packages and modules of incr_core whose prose is rewritten. Add a package when its prose is."""

BESIDE = ["cluster", "examples", "tools"]
"""The same beside incr_core."""

WORDS = [
    *("whoever", "nobody", "somebody", "anybody", "everybody", "anew", "lies", "told", "tell", "tells"),
    *("telling", "whence", "thence", "hence", "thereof", "whereof", "befall", "befalls", "befell", "midst"),
    *("of one's own", "of its own", "of their own", "of somebody's own", "at hand", "makes of", "made of it"),
    *("let go", "lets go", "so many", "such as are", "that which", "what is", "what was", "nought", "lest"),
]
"""Words and phrases that do not occur in the prose."""

OPENINGS = ("What ", "Who ", "How ", "Which ", "Where ", "That ", "Those ")
"""First words that a docstring does not begin with."""

_WORDS = re.compile(rf"\b(?:{'|'.join(map(re.escape, WORDS))})\b", re.IGNORECASE)
_CODE = re.compile(r"`[^`]*`|^\s*(?:>>>|\.\.\.) .*$", re.MULTILINE)


def docstrings_in(tree: ast.Module) -> Iterator[ast.Constant]:
    """Strings that stand alone as statements: docstrings, also those of attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def prose_in(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a module, with its lines: docstrings, comments, and string literals that contain a space."""
    tree = ast.parse(text)
    alone = {id(string) for string in docstrings_in(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_prose = id(node) in alone or " " in node.value.strip()
            yield from [(node.lineno, node.value)] * is_prose
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def faults_in(text: str) -> list[str]:
    """Words of the list in a module's prose, outside of code, and docstrings with a wrong opening."""
    found = []
    for line, prose in prose_in(text):
        plain = _CODE.sub("", prose)
        found += [f"{line + plain[: one.start()].count(chr(10))}: {one[0]}" for one in _WORDS.finditer(plain)]
    found += [
        f"{string.lineno}: begins with {string.value.split()[0]}"
        for string in docstrings_in(ast.parse(text))
        if isinstance(string.value, str) and string.value.startswith(OPENINGS)
    ]
    return found


@pytest.mark.parametrize("part", [*(f"incr_core/{part}" for part in CLEAN), *BESIDE])
def test_the_prose_of_a_clean_package_has_none_of_the_words(part: str) -> None:
    place = ROOT / part
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files, f"{part} does not exist; correct CLEAN or BESIDE"
    faults = {str(file.relative_to(ROOT)): found for file in files if (found := faults_in(file.read_text()))}
    assert not faults, f"expected plain prose, got the words {faults}; see the words of tests/test_prose_of_code.py"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""Rows that nobody asks for."""', ["1: nobody"]),
        ('"""Rows.\n\nThe file\nlies on disk.\n"""', ["4: lies"]),
        ("x = 1  # anew", ["1: anew"]),
        ('raise ValueError(f"{x} is told")', ["1: told"]),
        ('"""What a strategy does."""', ["1: begins with What"]),
        ('x = 1\n"""How many rows."""', ["2: begins with How"]),
    ],
)
def test_a_word_of_the_list_is_seen(text: str, found: list[str]) -> None:
    assert faults_in(text) == found


@pytest.mark.parametrize(
    "text",
    [
        'told = ["Told"]',
        '"""Runs `told`.\n\n>>> nobody = 1\n"""',
        '"""Return how many rows there are."""',
        "# Relies on it.",
    ],
)
def test_code_is_not_prose(text: str) -> None:
    assert faults_in(text) == []
