"""Features from labels already known: how often, in a window of the past, among rows with the same keys."""

from __future__ import annotations

from incr_core.data.rates._history import History, with_features
from incr_core.data.rates._rates import Questions, Rate

__all__ = ["History", "Questions", "Rate", "with_features"]
