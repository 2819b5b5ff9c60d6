"""Cap on the weight of a single update in a mean by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from incr_core.update import Update, shares

__all__ = ["capped", "capped_rows"]

UNITS = 1 << 40
"""Total of the adjusted row counts after capping, large enough that rounding hardly changes a share."""


def _capped_shares(rows: Sequence[int], most: float) -> list[float]:
    """Return p_i = rows_i / rows, limited to `most`; the excess goes to the others in proportion to their rows.

    If too few participants have rows (n * most <= 1), all of them have equal shares.

        >>> _capped_shares([80, 10, 10], 0.5)
        [0.5, 0.25, 0.25]
        >>> _capped_shares([80, 15, 5], 0.4)  # the second, too, once it has its part of what was cut
        [0.4, 0.4, 0.2]
        >>> _capped_shares([80, 20, 0], 0.5)
        [0.5, 0.5, 0.0]
    """
    learned = [place for place, count in enumerate(rows) if count]
    if len(learned) * most <= 1.0:
        return [1.0 / len(learned) if count else 0.0 for count in rows]
    found, cut = shares(rows), set[int]()
    while over := [place for place in learned if place not in cut and found[place] > most]:
        cut.update(over)
        left, of = 1.0 - most * len(cut), sum(rows[place] for place in learned if place not in cut)
        found = [most if place in cut else left * count / of for place, count in enumerate(rows)]
    return [round(share, 15) for share in found] if cut else found


def capped_rows(rows: Sequence[int], most: float) -> Sequence[int]:
    """Return row counts whose shares do not exceed `most`; the same object if none does.

    Example:
        >>> capped_rows([80, 10, 10], 0.9), capped_rows([0, 0], 0.5)
        ([80, 10, 10], [0, 0])
        >>> [count / UNITS for count in capped_rows([80, 10, 10], 0.5)]
        [0.5, 0.25, 0.25]
    """
    if not any(rows) or (wanted := _capped_shares(rows, most)) == shares(rows):
        return rows
    return [round(share * UNITS) for share in wanted]


def capped(updates: Sequence[Update], most: float) -> Sequence[Update]:
    """Return updates whose weight in a mean by rows does not exceed `most`; the same object if none does.

    Rows, and sums over rows, are scaled.
    """
    rows = [update.num_rows for update in updates]
    counted = capped_rows(rows, most)
    if counted == rows:
        return updates
    return [_counted(update, count) if count else update for update, count in zip(updates, counted, strict=True)]


def _counted(update: Update, rows: int) -> Update:
    losses: Mapping[str, float] = {name: value * (rows / update.num_rows) for name, value in update.losses.items()}
    found = Update(lambda: update.weights, rows, losses)
    found.steps = update.steps
    return found
