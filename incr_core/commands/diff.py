"""`incr diff`: the differences between two versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incr_core.shown import shown

__all__ = ["described"]

MOST = 10
"""Number of weights that are printed."""


def described(found: Mapping[str, Any]) -> str:
    """Return the differences as text. Of the weights, it lists those that have changed most.

    Example:
        >>> print(described({"versions": [1, 2], "after": ["Monday", "Tuesday"], "same_model": False, "rows": 900,
        ...     "weights": {"w": {"most": 0.5, "share": 0.1}}, "metrics": {"auc": [0.7, 0.71]},
        ...     "verdicts": [None, {"why": "loss 0.5"}], "lineage": [[], [1]]}))
        version 1 (Monday) -> version 2 (Tuesday): 900 rows learned between
          version 2 goes on from 1
          auc                  0.7000 -> 0.7100
          gate, version 2: loss 0.5
          weight w: moved by 10.0% of its norm, an entry by at most 0.5
    """
    (one, other), (before, after) = found["versions"], map(shown, found["after"])
    same = "; the models are equal" if found["same_model"] else ""
    lines = [f"version {one} ({before}) -> version {other} ({after}): {found['rows']:,} rows learned between{same}"]
    for version, lineage in zip(found["versions"], found["lineage"], strict=True):
        if lineage:
            lines.append(f"  version {version} goes on from {', '.join(map(str, lineage))}")
    for name, (then, now) in found["metrics"].items():
        told = ["-" if value is None else f"{value:.4f}" for value in (then, now)]
        lines.append(f"  {shown(name):20} {told[0]} -> {told[1]}")
    for version, verdict in zip(found["versions"], found["verdicts"], strict=True):
        if verdict is not None:
            lines.append(f"  gate, version {version}: {shown(verdict['why'])}")
    if found["weights"] is None:
        return "\n".join([*lines, "  the weights of one of them were pruned"])
    moved = sorted(found["weights"].items(), key=lambda weight: -weight[1]["share"])
    for name, change in moved[:MOST]:
        lines.append(
            f"  weight {shown(name)}: moved by {100 * change['share']:.1f}% of its norm, an entry by at most "
            f"{change['most']:.3g}"
        )
    more = len(moved) - MOST
    return "\n".join([*lines, *([f"  and {more} weights more"] if more > 0 else [])])
