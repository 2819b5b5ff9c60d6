"""Features from known labels: rates of outcomes in a window of the past, among rows with the same keys."""

from __future__ import annotations

from incr_core.data.rates._history import History, widened, with_features
from incr_core.data.rates._lookup import Lookup
from incr_core.data.rates._rates import Questions, Rate

__all__ = ["History", "Lookup", "Questions", "Rate", "widened", "with_features"]
