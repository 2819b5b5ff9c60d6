"""Docstrings on the site: examples become code, where Markdown would take `>>>` for a quotation (for griffe)."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["FencedExamples", "fenced"]

EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent).*\S.*\n?)*", re.MULTILINE)
"""An example of doctest, up to the next empty line."""


class FencedExamples(Extension):
    """Fence the examples in all docstrings."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    r"""A docstring with its examples in fences.

    >>> fenced("Add.\n\n>>> 1 + 1\n2\n\nNo more.").splitlines()
    ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'No more.']
    """
    return EXAMPLE.sub(lambda found: _fence(found[0].rstrip("\n"), found["indent"]) + "\n", text).rstrip("\n")


def _fence(example: str, indent: str) -> str:
    return f"{indent}```pycon\n{example}\n{indent}```"
