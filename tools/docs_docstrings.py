"""Docstrings on the site (an extension of griffe): examples become code blocks. Markdown would render them as
quotations.

Links in descriptions of keys are relative to docs/job.md, and are rewritten for the reference's place.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["FencedExamples", "fenced"]

EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent).*\S.*\n?)*", re.MULTILINE)
"""A doctest example, up to the next empty line."""

LINK = re.compile(r"\]\((?=[\w.#])(?P<place>[\w./-]+\.md)?(?P<anchor>#[\w-]+)?\)")
"""A link in a key's description, as docs/job.md has it."""


class FencedExamples(Extension):
    """Puts the examples in all docstrings into code fences."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = LINK.sub(_from_reference, fenced(obj.docstring.value))


def fenced(text: str) -> str:
    r"""Return a docstring with its examples in code fences.

    Example:
        >>> fenced("Add.\n\n>>> 1 + 1\n2\n\nNo more.").splitlines()
        ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'No more.']
    """
    return EXAMPLE.sub(lambda found: _fence(found[0].rstrip("\n"), found["indent"]) + "\n", text).rstrip("\n")


def _from_reference(link: re.Match[str]) -> str:
    """Return a link as the pages in `reference/` need it.

    Example:
        >>> LINK.sub(_from_reference, "[a](cluster.md#gpus), [b](#experts), [c](../examples/flights/README.md)")
        '[a](../cluster.md#gpus), [b](../job.md#experts), [c](../project/examples/flights/README.md)'
    """
    place = link["place"] or "job.md"
    place = f"../project/{place.removeprefix('../')}" if place.startswith("../") else f"../{place}"
    return f"]({place}{link['anchor'] or ''})"


def _fence(example: str, indent: str) -> str:
    return f"{indent}```pycon\n{example}\n{indent}```"
