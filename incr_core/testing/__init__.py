"""Laws for user-defined strategies, and streams for studying forgetting and drift."""

from __future__ import annotations

from incr_core.testing._laws import check_strategy
from incr_core.testing._scenarios import blurry, class_incremental, drifting, permuted, rotated

__all__ = ["blurry", "check_strategy", "class_incremental", "drifting", "permuted", "rotated"]
