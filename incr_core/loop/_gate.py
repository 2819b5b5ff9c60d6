"""The gate: decides whether a new version becomes the champion.

New rows alone are not sufficient evidence: flipped labels favour a model that has learned them. Nor are past rows: a
healthy step sometimes makes predictions on them slightly worse. Therefore both are used. If the champion predicts new
rows unusually badly, the version that has learned them is suspect, and it is held if its predictions on past rows are
worse too. After a number of consecutive held versions the world may have changed: then its loss on new rows is compared
with the champion's record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from incr_core.loop._newest import Newest
from incr_core.rounds import Arrival

__all__ = ["Gate", "Verdict"]

SURE = 3.0
"""Number of standard errors by which past rows must be predicted worse, so that versions are not held by chance."""

LENIENT = 1 / 3
"""Minimum factor on the bounds if the loss on new rows is unprecedented: the more unusual it is, the less evidence from
past rows is needed.
"""

SUSPECT, ANY = (1.0, 3.0), (5.0, 10.0)
"""Allowed increase of the loss on past rows, in margins and in usual increases of champions' losses: for a version that
has learned rows predicted badly by the champion, and for any other.
"""

ODD, STILL_ODD, LEAST_ODD = 4.0, 2.0, 0.1
"""Ratio to the usual increase at which the loss on new rows is suspect, the same directly after rows were set aside,
and the minimum relative increase.
"""

MISCALIBRATED, UNUSUALLY, ENOUGH = 0.05, 4.0, 200
"""The largest rise of the calibration error on rows held back, absolute and relative to the usual rise, and the number
of rows below which the error is mostly noise."""

MEMORY = 0.1
"""Weight of a commit in the exponential means of these records."""

TINY = 1e-12

KNOWN = 5
"""Number of promoted versions with past rows that are needed for a record."""

SPARING = 2
"""Rows learned per past row before an unsuspected version is judged; with fewer, evaluating past rows would take a
notable share of the time of learning.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on a version, with the numbers behind it.

    rows: of the past, on which champion and challenger have these mean losses; error: the standard error of their
    difference. usual: by which share a champion's loss there has usually risen. newest: mean loss of the predictions
    made of rows before they were learned, since the last commit; record: that of champions; suspect: whether it is
    unusually bad. held: versions held in a row, with this one. why: in words. newest_rows: the comparison on rows that
    neither has learned, where the job holds some back.
    """

    follow: str
    rows: int
    champion: float
    challenger: float
    error: float
    usual: float
    newest: float
    record: float
    suspect: bool
    held: int
    why: str
    newest_rows: Newest | None = None

    @property
    def promoted(self) -> bool:
        """Whether the version becomes the champion."""
        return self.follow != "hold"

    def document(self) -> dict[str, Any]:
        """Return the manifest entry, without unknown numbers."""
        told = {name: value for name, value in asdict(self).items() if not isinstance(value, float) or value == value}
        kept = {name: value for name, value in told.items() if name not in ("follow", "newest_rows")}
        holdout = {} if self.newest_rows is None else {"holdout": self.newest_rows.document()}
        return {"promoted": self.promoted, **kept, **holdout}


class Gate:
    """Judges each new version against the champion.

    Args:
        margin: Allowed relative increase of the champion's loss, in addition to the usual increase: a drifting stream
            is judged by its own pace.
        patience: Number of consecutive held versions after which new rows count as well.
        goes_back: Whether the rows of a held version are set aside. That many in a row are then a drift, because no
            version has learned them.

    Example:
        >>> gate = Gate(margin=0.01, patience=2)
        >>> good, bad = torch.tensor([100.0, 50, 51, 1, 3]), torch.tensor([100.0, 50, 80, 30, 40])
        >>> def commit(loss, sums):
        ...     gate.seen(10, 10 * loss)
        ...     return gate.verdict(sums).follow
        >>> [commit(0.5, good) for _ in range(5)]
        ['promote', 'promote', 'promote', 'promote', 'promote']
        >>> commit(0.9, good), commit(0.9, bad), commit(0.9, good), commit(0.9, bad)
        ('promote', 'hold', 'recover', 'hold')
        >>> gate.verdict(bad).why
        'loss 0.8 on 100 past rows, compared with 0.5 for the champion'
        >>> commit(0.8, bad)  # the loss on new rows is below the champion's
        'restart'
        >>> gate.learned(100)
        >>> gate.due, gate.unasked().why  # too few rows learned since for another evaluation
        (False, 'no unusual loss on new rows; past rows were not evaluated')
    """

    def __init__(self, margin: float, patience: int, *, goes_back: bool = False) -> None:
        self.margin, self.patience, self.goes_back = margin, patience, goes_back
        self.held = 0
        self.aside = 0  # commits in a row whose rows were set aside
        self._usual, self._odd = _Rise(), _Rise()  # of champions' losses on the past, and of those of what arrives
        self._newer, self._calibration = _Rise(), _Rise()  # of losses and calibration errors on rows held back
        self._record: float | None = None  # mean loss of the champion's predictions as they came
        self._first: float | None = None  # the same of the rows that came when the first of those held did
        self._newest = [0.0, 0.0]  # rows scored since the last commit, and the sum of their losses
        self._share = 1.0  # factor on the bounds while versions are held
        self._past = 0  # number of past rows at the last evaluation
        self._learned = 0  # rows learned since that evaluation

    def learned(self, rows: int) -> None:
        """Record that rows were learned."""
        self._learned += rows

    @property
    def due(self) -> bool:
        """Whether past rows must be evaluated for the next verdict."""
        doubt = self.held or self._standing().suspect
        return bool(doubt) or self._usual.known < KNOWN or self._learned >= SPARING * self._past

    @property
    def behind(self) -> bool:
        """Whether new rows are suspect, and the champion was not evaluated on past rows.

        It must be evaluated before further learning (`caught_up`), because afterwards its weights are gone.
        """
        return self._learned > 0 and not self.held and self._standing().suspect

    def caught_up(self, judged: Tensor) -> None:
        """Record that the champion was evaluated on past rows."""
        self._past, self._learned = int(judged[0]), 0

    def arrived(self, arrivals: Sequence[Arrival]) -> None:
        """Record the scores of an increment before it is learned; the last of the probes is the gate's."""
        for arrival in arrivals:
            if arrival.probed:
                loss, rows = arrival.probed[-1].sum(0)[:, 0].tolist()
                self.seen(rows, loss)

    def seen(self, rows: float, loss: float) -> None:
        """Record a number of scored predictions and the sum of their losses."""
        self._newest = [self._newest[0] + rows, self._newest[1] + loss]

    def _standing(self) -> _Standing:
        """Compare the loss on new rows since the last commit with the record."""
        newest = self._newest[1] / self._newest[0] if self._newest[0] else math.nan
        record = math.nan if self._record is None else self._record
        odd = newest / max(record, TINY) - 1.0
        bound = max(LEAST_ODD, (STILL_ODD if self.aside else ODD) * self._odd.size)
        suspect = odd > bound
        return _Standing(newest, record, odd, suspect, max(LENIENT, bound / odd) if suspect else 1.0)

    def refuses(self, newest: Newest | None) -> str:
        """Return why the rows held back refuse the new version; "" if they do not."""
        if newest is None or self._newer.known < KNOWN:
            return ""
        margins, rises = SUSPECT
        bound = (margins * self.margin + rises * self._newer.size) * abs(newest.champion)
        if newest.change > max(bound, SURE * newest.error):
            return newest.described()
        if newest.rows >= ENOUGH and newest.rise > max(MISCALIBRATED, UNUSUALLY * self._calibration.size):
            return f"calibration is worse: {newest.described()}"
        return ""

    def unasked(self, newest: Newest | None = None) -> Verdict:
        """Promote a version without evaluating past rows, if that is not `due` and rows held back do not refuse it."""
        one, none = self._standing(), math.nan
        self._odd.add(one.odd)
        self._learn_from(newest)
        self._took("promote", one.newest)
        why = "no unusual loss on new rows; past rows were not evaluated"
        return Verdict("promote", 0, none, none, none, self._usual.size, one.newest, one.record, False, 0, why, newest)

    def _learn_from(self, newest: Newest | None) -> None:
        """Add a promoted version's results on rows held back to the usual values."""
        if newest is not None:
            self._newer.add(newest.change / max(abs(newest.champion), TINY))
            self._calibration.add(newest.rise)

    def verdict(self, judged: Tensor, *, wanted: bool = False, newest: Newest | None = None) -> Verdict:
        """Judge the version that is about to be committed.

        judged: the sums of all participants (`Reference.judge`). wanted: whether a person has said that it is good.
        newest: the comparison on rows held back, where there are any.
        """
        rows, champion, challenger, change, squared = judged.tolist()
        self.caught_up(judged)
        if not rows:
            champion = challenger = change = squared = math.nan
        count = max(rows, 1.0)
        champion, challenger, change, squared = champion / count, challenger / count, change / count, squared / count
        error = math.sqrt(max(squared - change**2, 0.0) / count)
        one, usual = self._standing(), self._usual.size
        arrived, record, suspect = one.newest, one.record, one.suspect
        margins, rises = SUSPECT if suspect or self.held else ANY
        share = min(one.share, self._share if self.held else 1.0)
        sure = 1.0 + (SURE - 1.0) * share
        bound = max(share * (margins * self.margin + rises * usual) * abs(champion), sure * error)
        worse = self._usual.known >= KNOWN and change > bound
        told = f"loss {challenger:.4g} on {int(rows):,} past rows, compared with {champion:.4g} for the champion"
        if self.aside and suspect and not worse:
            # Participants that have not learned the preceding rows find these equally unusual; learning them need not
            # affect past rows.
            worse = True
            told = f"the loss on new rows is still {arrived:.4g}, compared with {record:.4g} for champions; {told}"
        if against := self.refuses(newest):
            worse, told = True, f"{against}; {told}"
        follow, why = "recover" if self.held else "promote", told if rows else "no past rows yet"
        if worse and wanted:
            follow, why = "restart", f"promoted by hand: {told}"
        elif worse:
            follow, why = self._doubted(arrived, told, newest)
        if follow == "promote":
            self._usual.add(change / max(abs(champion), TINY))
            self._odd.add(one.odd)
            self._learn_from(newest)
        self._share = share if follow == "hold" else 1.0
        self._took(follow, arrived)
        return Verdict(
            follow, int(rows), champion, challenger, error, usual, arrived, record, suspect, self.held, why, newest
        )  # fmt: skip

    def _doubted(self, arrived: float, told: str, newest: Newest | None) -> tuple[str, str]:
        """Decide on a version that is worse on the past or on rows held back: the action and its reason."""
        if self.held + self.aside < self.patience:
            return "hold", told
        if self.goes_back:
            return (
                "restart",
                f"a drift: {told}; the rows of the last {self.aside} commits were set aside for the same reason",
            )
        if newest is not None:  # losses of both on the same rows, which neither has learned
            if newest.change < -SURE * newest.error:
                return "restart", f"a drift: {told}, after {self.held} held versions; but {newest.described()}"
            return "hold", f"{told}; held {self.held} times before, and {newest.described()}"
        # The champion made the predictions that were scored when its successor was held first.
        before = max(value for value in (self._first, self._record, -math.inf) if value is not None)
        if arrived < before:
            return "restart", (
                f"a drift: {told}, after {self.held} held versions; but the loss on new rows is {arrived:.4g}, "
                f"compared with {before:.4g} for the champion"
            )
        return "hold", f"{told}; held {self.held} times before, and the loss on new rows is no lower"

    def _took(self, follow: str, newest: float) -> None:
        if follow == "hold":
            if not self.held:
                self._first = newest if newest == newest else None
            self.held += 1
        else:
            if newest == newest and follow == "promote":
                record = newest if self._record is None else self._record
                self._record = record + MEMORY * (newest - record)
            elif follow == "restart":
                self._record = newest if newest == newest else self._record
            self.held = 0
        self._newest = [0.0, 0.0]

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next verdict depends."""
        return {
            "held": self.held,
            "aside": self.aside,
            "usual": [self._usual.known, self._usual.squares],
            "odd": [self._odd.known, self._odd.squares],
            "newer": [self._newer.known, self._newer.squares],
            "calibration": [self._calibration.known, self._calibration.squares],
            "record": self._record,
            "first": self._first,
            "newest": list(self._newest),
            "share": self._share,
            "past": self._past,
            "learned": self._learned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state."""
        self.held, self.aside, self._record = state["held"], state["aside"], state["record"]
        self._usual, self._odd = _Rise(*state["usual"]), _Rise(*state["odd"])
        none = _Rise().known, _Rise().squares  # an earlier incr held no rows back
        self._newer, self._calibration = (_Rise(*state.get(name, none)) for name in ("newer", "calibration"))
        self._first, self._newest = state["first"], list(state["newest"])
        self._share, self._past, self._learned = state["share"], state["past"], state["learned"]


@dataclass(frozen=True, slots=True)
class _Standing:
    """Comparison of new rows with the record.

    Attributes:
        newest: Mean loss on new rows.
        record: Mean loss of champions on new rows.
        odd: Relative increase.
        suspect: Whether the increase is unusual.
        share: Factor on the bounds that results.
    """

    newest: float
    record: float
    odd: float
    suspect: bool
    share: float


@dataclass(slots=True)
class _Rise:
    """Usual increase of a quantity: the root mean square of its increases, with decreases counted as 0.

    Example:
        >>> rise = _Rise()
        >>> for change in (0.3, -5.0, math.nan):
        ...     rise.add(change)
        >>> rise.known, round(rise.size, 3)
        (2, 0.212)
    """

    known: int = 0
    squares: float = 0.0

    def add(self, change: float) -> None:
        """Add a relative change; NaN is ignored."""
        if change == change:
            self.known += 1
            self.squares += max(1 / self.known, MEMORY) * (max(change, 0.0) ** 2 - self.squares)

    @property
    def size(self) -> float:
        """The usual increase."""
        return math.sqrt(self.squares)


def total(judged: Sequence[Tensor]) -> Tensor:
    """Return the sum over all participants, in their order.

    Example:
        >>> total([torch.ones(5), torch.ones(5)])[0]
        tensor(2., dtype=torch.float64)
    """
    return sum((one.double() for one in judged), torch.zeros(5, dtype=torch.float64))
