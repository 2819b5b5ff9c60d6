"""Data in messages: names, labels and values that somebody else wrote, as text that cannot do anything to a reader.

A terminal obeys control characters: one may clear the screen, rename the window, or write over the line before. So may
a file's name that ends in a line break pass for a message of ours, and a change of direction for another name. All of
them are told by their codes instead.
"""

from __future__ import annotations

import re

__all__ = ["shown"]

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)
"""Controls (C0, C1), whatever turns the direction of text or takes no room, ends of lines, and halves of pairs."""


def shown(value: object, most: int | None = None) -> str:
    r"""A value from data, for a message: what cannot be printed by its code, and no more than `most` characters of it.

    Shown again it stays as it is.

    >>> shown("\x1b[31mred\r\n"), shown("left\u202eright"), shown("Zürich"), shown(3.5)
    ('\\x1b[31mred\\r\\n', 'left\\u202eright', 'Zürich', '3.5')
    >>> shown("x" * 100, most=9)
    'xxxxxx...'
    """
    written = str(value)
    cut = written if most is None or len(written) <= most else f"{written[: most - 3]}..."
    return _UNPRINTABLE.sub(_code, cut)


def _code(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()
