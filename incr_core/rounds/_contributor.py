"""A contributor: a participant with its exchanges. Without peers, it is the whole local engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from incr_core.rounds._exchanging import Exchanging
from incr_core.rounds._resharding import SavedState
from incr_core.rounds._snapshot import Snapshot
from incr_core.storage import checkpoint
from incr_core.update import Weights

__all__ = ["Contributor"]


class Contributor(Exchanging):
    """A participant among its peers (`Exchanging`) that can start, resume from saved state, and roll back.

    It takes the same arguments as `Exchanging`.
    """

    def _prepare(self) -> None:
        super()._prepare()
        self._kept: Snapshot | None = None

    def start(self, saved: SavedState | None, weights: Weights | None, found: bool = True) -> None:
        """Start from the beginning, or resume from a saved state and weights.

        Args:
            saved: The saved state; None starts from the beginning.
            weights: The weights of the commit.
            found: Whether to include files that appeared since.
        """
        self._renew()
        if saved is None or weights is None:
            return
        self._fresh = False
        learner = self.participant.learner
        learner.adopt(weights)
        self._take_back(self.participant.resume(saved.load(learner), found=found))

    def inherit(
        self, saved: Sequence[SavedState], weights: Weights, number: int, count: int, found: bool = True
    ) -> None:
        """Resume as number `number` of `count` contributors from the states of a different number of contributors.

        Args:
            saved: The saved states of all previous contributors.
            weights: The weights of the commit.
            number: Number of this contributor.
            count: New number of contributors.
            found: As in `start`.
        """
        self._renew()
        self._fresh = False
        learner = self.participant.learner
        learner.adopt(weights)
        states = [one.load(learner) for one in saved]
        exchanged = self.participant.inherit(states, number, count, found=found)
        if number >= len(saved):
            exchanged = {**exchanged, "left": {}}  # a new contributor has no rounding residue yet
        self._take_back(exchanged)

    def _renew(self) -> None:
        """Replace a used participant by a new one."""
        if not self._fresh:
            self.participant.close()
            self._prepare()

    def go_back(self, version: int | None) -> bool:
        """Roll back to a version whose state is in memory, keeping the model object and the reader. Return False
        otherwise.
        """
        kept = self._kept
        if kept is None or kept.version != version:
            return False
        self.adopt(kept.weights)
        self._take_back(self.participant.go_back(kept.state()))
        return True

    def _take_back(self, exchanged: Mapping[str, Any]) -> None:
        self.outer.load_state_dict(exchanged["outer"])
        self._summed = exchanged["summed"]
        for name, value in self._left.items():
            value.copy_(exchanged["left"][name]) if name in exchanged["left"] else value.zero_()

    def save(self, path: Path, version: int | None = None) -> None:
        """Save the state of the participant and of its exchanges for that version."""
        if self._keeps and version is not None:
            self.snapshot(version).write(path)
        else:
            checkpoint.save(path, self._state())

    def snapshot(self, version: int) -> Snapshot:
        """Keep the state in memory, for rolling back or for writing it while learning continues.

        It reuses the memory of the previous snapshot (`Snapshot.of`).
        """
        before, self._kept = self._kept, None
        self._kept = Snapshot.of(version, self._weights(), self._state(), before)
        self.participant.saved()
        return self._kept

    def _state(self) -> dict[str, Any]:
        return self.participant.state_dict(
            {"outer": self.outer.state_dict(), "summed": self._summed, "left": self._left}
        )
