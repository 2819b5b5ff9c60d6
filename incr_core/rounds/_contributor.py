"""A contributor: a participant and its exchanges with others. Without others, it is all of the local engine."""

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
    """A participant among its peers (`Exchanging`), that begins, goes on from what it has saved, and goes back.

    It is made of the same arguments.
    """

    def _prepare(self) -> None:
        super()._prepare()
        self._kept: Snapshot | None = None

    def start(self, saved: SavedState | None, weights: Weights | None, found: bool = True) -> None:
        """Begin anew, or go on from a saved state and these weights.

        found: whether to take in files that were found since.
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
        """Go on as number `number` of `count` from these weights and the states of another number of contributors.

        found: as in `start`.
        """
        self._renew()
        self._fresh = False
        learner = self.participant.learner
        learner.adopt(weights)
        states = [one.load(learner) for one in saved]
        exchanged = self.participant.inherit(states, number, count, found=found)
        if number >= len(saved):
            exchanged = {**exchanged, "left": {}}  # who joins has sent nothing yet that was rounded
        self._take_back(exchanged)

    def _renew(self) -> None:
        """Let the participant be one that has begun nothing."""
        if not self._fresh:
            self.participant.close()
            self._prepare()

    def go_back(self, version: int | None) -> bool:
        """Go back to a version, if its state is kept in memory: with the same model, and the same reader."""
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
        """Keep the state of the participant and of its exchanges, of that version."""
        if self._keeps and version is not None:
            self.snapshot(version).write(path)
        else:
            checkpoint.save(path, self._state())

    def snapshot(self, version: int) -> Snapshot:
        """Keep the state in memory alone, to go back to or to be written while learning goes on.

        It lies where the last one lay (`Snapshot.of`).
        """
        before, self._kept = self._kept, None
        self._kept = Snapshot.of(version, self._weights(), self._state(), before)
        self.participant.saved()
        return self._kept

    def _state(self) -> dict[str, Any]:
        return self.participant.state_dict(
            {"outer": self.outer.state_dict(), "summed": self._summed, "left": self._left}
        )
