"""Warnings about metrics that do not measure what a run has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["caution"]


def caution(summary: Mapping[str, Any]) -> str:
    """Return why the metrics of a summary do not measure learning, and the remedy. Empty if they do.

    >>> caution({"increments": 1, "rows_learned": 900, "rows_predicted": 900})
    'All rows were predicted before any was learned, in one increment: set stream.every to a number of rows or...'
    >>> caution({"increments": 9, "rows_learned": 900, "rows_predicted": 900})
    ''
    """
    if not summary.get("rows_learned"):
        return ""
    if not summary["rows_predicted"]:
        return "No row was predicted, since all came before stream.warm_start: set it earlier."
    if summary["increments"] == 1:
        return (
            "All rows were predicted before any was learned, in one increment: set stream.every to a number of rows "
            'or, with predict_at, to a duration such as "1d".'
        )
    return ""
