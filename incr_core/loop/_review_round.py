"""A review: a round over rows of the history, which stay in their versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from incr_core.engines import Engine
from incr_core.loop._divergence import fault_of
from incr_core.registry import RunDirectory, erased, ids_of
from incr_core.rounds import Arrival, Review, Round

__all__ = ["review_history"]


def review_history(
    review: Review,
    engine: Engine,
    directory: RunDirectory,
    pending: Mapping[str, Sequence[Tensor]],
    arrivals: Sequence[Arrival],
    learned: Round,
) -> tuple[str, str, int] | None:
    """Learn rows drawn from the history once more.

    Args:
        review: The schedule, which draws the rows.
        engine: The engine.
        directory: The run directory.
        pending: Rows learned since the last commit, by participant.
        arrivals: Reports on the preceding increment.
        learned: Costs of that increment, to which the review's are added. If the review diverges, so has the increment.

    Returns:
        Description, loss and number of rows of the review, or None.
    """
    names = list(engine.origins)
    rows = review.draw(arrivals[0].tick.number, pending, directory.table("ledger"), names)
    if len(gone := ids_of(erased(directory.path), names)):
        left = {name: ids[~torch.isin(ids, gone)] for name, ids in rows.items()}
        rows = {name: ids for name, ids in left.items() if len(ids)}
    if not rows:
        return None
    reviewed = engine.learn(arrivals, rows)
    learned.bytes_exchanged += reviewed.bytes_exchanged
    learned.seconds_learning += reviewed.seconds_learning
    learned.seconds_exchanging += reviewed.seconds_exchanging
    count, loss = reviewed.passes_rows, reviewed.losses.get("loss", math.nan)
    if fault_of(reviewed, None) is not None:
        learned.losses["loss of the review"] = loss
        return None
    asked = sum(map(len, rows.values()))
    what = f"a pass over {count:,} rows drawn from those learned"
    what += f"; the files of {asked - count:,} are gone" if count < asked else ""
    return what, f"loss {loss / max(count, 1):.4g}", count
