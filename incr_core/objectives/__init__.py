"""More objectives, one a file; `binary`, `multiclass` and `regression` live in `objective.py`."""

from __future__ import annotations

from incr_core.objectives.multilabel import Multilabel
from incr_core.objectives.next_token import NextToken
from incr_core.objectives.ranking import Ranking

__all__ = ["Multilabel", "NextToken", "Ranking"]
