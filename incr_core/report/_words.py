"""Formatting of numbers and names for readers."""

from __future__ import annotations

import html

import numpy as np

from incr_core.shown import shown

__all__ = ["count", "escaped", "increments", "number", "short", "size", "words"]


def increments(n: int) -> str:
    """A number of increments, in words.

    >>> increments(1), increments(1000)
    ('one increment', '1,000 increments')
    """
    return "one increment" if n == 1 else f"{count(n)} increments"


def words(name: str) -> str:
    """The display name of a metric.

    >>> words("auc"), words("base_rate")
    ('AUC', 'base rate')
    """
    known = {"auc": "AUC", "rmse": "RMSE", "mae": "MAE", "r2": "R²", "f1": "F1", "brier": "Brier score"}
    return known.get(name, name.replace("_", " "))


def short(text: str, most: int = 26) -> str:
    """A text cut to `most` characters.

    >>> short("abcdef", most=4)
    'abc…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def count(value: float) -> str:
    """A whole number.

    >>> count(12345.0), count(float("nan"))
    ('12,345', '–')
    """
    return f"{value:,.0f}" if np.isfinite(value) else "–"


def number(value: float) -> str:
    """Four digits.

    >>> number(0.75)
    '0.7500'
    """
    return f"{value:.4f}" if np.isfinite(value) else "–"


def size(n: float) -> str:
    """A number of bytes.

    >>> size(1234567)
    '1.23 MB'
    """
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def escaped(value: object) -> str:
    """Any value as text in HTML.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return html.escape(shown(value))
