"""Docstrings on the site (an extension of griffe): examples become code, which Markdown would take for quotations.

Links in descriptions of keys are those of docs/job.md, and are moved to where the reference is.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["FencedExamples", "fenced"]

EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent).*\S.*\n?)*", re.MULTILINE)
"""An example of doctest, up to the next empty line."""

LINK = re.compile(r"\]\((?=[\w.#])(?P<place>[\w./-]+\.md)?(?P<anchor>#[\w-]+)?\)")
"""A link of a description of a key, as docs/job.md has it."""


class FencedExamples(Extension):
    """Fence the examples in all docstrings."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = LINK.sub(_from_reference, fenced(obj.docstring.value))


def fenced(text: str) -> str:
    r"""A docstring with its examples in fences.

    >>> fenced("Add.\n\n>>> 1 + 1\n2\n\nNo more.").splitlines()
    ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'No more.']
    """
    return EXAMPLE.sub(lambda found: _fence(found[0].rstrip("\n"), found["indent"]) + "\n", text).rstrip("\n")


def _from_reference(link: re.Match[str]) -> str:
    """A link as the pages in `reference/` have it.

    >>> LINK.sub(_from_reference, "[a](cluster.md#gpus), [b](#experts), [c](../examples/flights/README.md)")
    '[a](../cluster.md#gpus), [b](../job.md#experts), [c](../project/examples/flights/README.md)'
    """
    place = link["place"] or "job.md"
    place = f"../project/{place.removeprefix('../')}" if place.startswith("../") else f"../{place}"
    return f"]({place}{link['anchor'] or ''})"


def _fence(example: str, indent: str) -> str:
    return f"{indent}```pycon\n{example}\n{indent}```"
