"""Which columns of a source are numeric and which are categories, as two lists."""

from __future__ import annotations

from typing import Any

from incr_core.data.encoding import column_kinds

__all__ = ["sorted_columns"]


def sorted_columns(source: Any, taken: Any = ()) -> tuple[list[str], list[str]]:
    found = column_kinds(source, taken)
    return found.numeric, found.categorical
