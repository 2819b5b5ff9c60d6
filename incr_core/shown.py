"""Escaping of data in messages: names, labels and values that other people wrote.

A terminal obeys control characters: they may clear the screen, rename the window, or overwrite the previous line. A
file name that ends in a line break can pass for a separate message, and a change of text direction for another name.
All such characters are replaced by their escape codes.
"""

from __future__ import annotations

import re

__all__ = ["shown"]

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)
"""Control characters (C0, C1), characters that change the text direction or have no width, line ends, and surrogates.
"""


def shown(value: object, most: int | None = None) -> str:
    r"""Return a value from data as text for a message, with unprintable characters escaped.

    The result is unchanged by a second call.

    Args:
        value: The value.
        most: Maximum number of characters; longer text is cut and ends in "...".

    Example:
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
