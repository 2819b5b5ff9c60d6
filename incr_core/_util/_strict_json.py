"""JSON that every reader takes: a number that is not finite is null there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_text"]


def json_text(document: Any, indent: int | None = 2) -> str:
    """A document as JSON, on one line where `indent` is None; NaN and infinity, which JSON does not know, become null.

    >>> print(json_text({"auc": float("nan"), "rows": [1, 0.5]}))
    {
      "auc": null,
      "rows": [
        1,
        0.5
      ]
    }
    """
    return json.dumps(_finite(document), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
