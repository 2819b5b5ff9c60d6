"""State of a participant, from which it resumes exactly, in another process or in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from incr_core.batch import Batch
from incr_core.data.timeline import Increment, Learned, Stream, Tick
from incr_core.learner import Learner, passes_after
from incr_core.rounds._at_hand import AtHand
from incr_core.rounds._inheritance import inherited
from incr_core.rounds._prequential import Prequential
from incr_core.rounds._reference import Reference
from incr_core.rounds._sampling import Sampling
from incr_core.rounds._unconsolidated_rows import UnconsolidatedRows
from incr_core.storage import checkpoint
from incr_core.update import Weights

__all__ = ["Resuming"]


class Resuming:
    """The part of a participant that saves its state, resumes from it, and rolls back.

    The attributes `stream`, `learner`, `personal`, `reference`, `sampling`, `increment`, `warm_passes` and `adapts` are
    those of the participant.

    A participant that rolls back keeps its reader, which repeats the increments delivered since the last state kept in
    memory. If these were too many, or the state is a different one, another reader starts at the state's position.
    """

    stream: Stream
    learner: Learner
    personal: frozenset[str]
    reference: Reference | None
    sampling: Sampling
    increment: AtHand | None
    warm_passes: int | None
    adapts: bool
    _evaluation: Prequential
    _unconsolidated: UnconsolidatedRows | None

    def __init__(self) -> None:
        self._increments: Iterator[Increment] | None = None  # None: not started
        self._ahead: Increment | None = None  # read but not received yet
        self._cursor: dict[str, Any] | None = None
        self._learned: Learned | None = None  # keys, if rows have keys
        self._keys: dict[str, Any] | None = None  # the same, as they were loaded
        self._takes_found = True  # whether to include files that appeared since
        self.keeps_increments = False
        self._since: list[Increment] | None = []  # received since the last state kept in memory; None: too many
        self._rows_since = 0
        self.unsent: dict[str, Tensor] = {}  # errors of coded updates, by weight, added to the next update
        self.held: dict[str, dict[str, Any]] = {}  # tensors of a server's last message, which it need not send again
        self._again: deque[Increment] = deque()  # of these, the increments to repeat

    def begin_at(self, cursor: dict[str, Any] | None) -> None:
        """Start at another participant's stream position, before any increment was received."""
        assert self._increments is None, "a participant begins once"
        self._cursor = cursor

    def _passes_of(self, tick: Tick) -> int:
        if tick.warm and self.warm_passes:
            return self.warm_passes
        return passes_after(self.learner.rows_known) if self.adapts else self.learner.epochs

    def _own(self) -> Weights:
        return {name: value for name, value in self.learner.weights().items() if name in self.personal}

    def _leave_out(self, until: int) -> None:
        """From now on exclude from rates the outcomes between the stream's current time and `until`."""
        stands = (self._cursor or {}).get("time")
        if stands is not None and stands < until and self.stream.set_aside(stands, until):
            self._read_anew(self._takes_found)

    def save(
        self, path: Path, exchanged: Mapping[str, Any] | None = None, *, whole: bool = False, **manifest: Any
    ) -> None:
        """Save `state_dict` in a folder."""
        checkpoint.save(path, self.state_dict(exchanged, whole=whole), **manifest)

    def state_dict(self, exchanged: Mapping[str, Any] | None = None, *, whole: bool = False) -> dict[str, Any]:
        """Return all state on which further learning depends, except the weights; tensors are the live ones.

        Args:
            exchanged: State of the exchanges.
            whole: Include the rows of the current increment, which is necessary in the middle of one. At a commit,
                learned rows are not needed again.
        """
        at_hand, rows = self.increment, self._unconsolidated
        own = self._own() if self.personal else self.learner.own_weights()
        return {
            "learner": self.learner.state_dict(),
            "pending": self._evaluation.pending.state_dict(),
            "trivial": self._evaluation.trivial.state_dict(),
            "cursor": self._cursor,
            "keys": self._keys if self._learned is None else self._learned.state_dict(),
            "increment": at_hand.state_dict(whole=whole)
            if at_hand is not None and (whole or at_hand.waiting)
            else None,
            "unconsolidated": None if rows is None else rows.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "exchanged": dict(exchanged or {}),
            **({"personal": own} if own else {}),
            **({"aside": self.stream.aside} if self.stream.aside else {}),
            **({"share": self.sampling.share} if self.sampling.share < 1.0 else {}),
            **({"unsent": self.unsent} if self.unsent else {}),
            **({"held": self.held} if whole and self.held else {}),
        }

    def load(self, path: Path, found: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore the state that `save` stored; return the exchange's state, and the manifest.

        Args:
            path: The folder.
            found: Whether to include files that appeared since.
        """
        state, manifest = checkpoint.load(path)
        return self.resume(state, found=found), manifest

    def resume(self, state: Mapping[str, Any], found: bool = True) -> dict[str, Any]:
        """Resume from a saved state, and restart the reader there; return the exchange's state."""
        exchanged = self._take_back(state)
        self._read_anew(found)
        return exchanged

    def inherit(self, states: Sequence[dict[str, Any]], number: int, count: int, found: bool = True) -> dict[str, Any]:
        """Resume as participant `number` of `count` from the states of more or fewer participants (`inherited`).

        Returns:
            The exchange's state.
        """
        keeps = None if self._unconsolidated is None else self._unconsolidated.keeps
        exchanged = self._take_back(inherited(self.learner, states, number, count, keeps))
        self._read_anew(found)
        return exchanged

    def _read_anew(self, found: bool) -> None:
        self.close()
        self._increments, self._takes_found = None, found
        self._again, self._ahead = deque(), None
        self.saved()

    def saved(self) -> None:
        """Note that all increments received so far are part of a state kept in memory."""
        self._since, self._rows_since = [], 0

    def go_back(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Roll back to the last `saved` state, and return the exchange's state.

        The reader stays and repeats the increments delivered since, if they are kept; otherwise another reader reads
        them again.
        """
        exchanged = self._take_back(state)
        self._ahead = None
        if self._since is None:
            self._read_anew(found=False)
        else:
            self._again.extendleft(reversed(self._since))
            self.saved()
        return exchanged

    def _take_back(self, state: Mapping[str, Any]) -> dict[str, Any]:
        self.learner.load_state_dict(state["learner"])
        self._evaluation.pending.load_state_dict(state["pending"])
        if "trivial" in state:  # absent in older states
            self._evaluation.trivial.load_state_dict(state["trivial"])
        self._cursor, self._keys, self._learned = state["cursor"], state["keys"], None
        if self._unconsolidated is not None:
            self._unconsolidated.load_state_dict(state["unconsolidated"])
        if self.personal:
            self.learner.adopt({**self.learner.weights(), **state["personal"]})
        if self.reference is not None and (reference := state.get("reference")) is not None:
            self.reference.load_state_dict(reference)  # absent if the job had no gate then
        self.stream.aside, self.sampling.share = state.get("aside", []), state.get("share", 1.0)
        self.unsent = dict(state.get("unsent", {}))
        self.held = dict(state.get("held", {}))
        at_hand = state["increment"]
        self.increment = None
        if at_hand is not None:
            tick, labelled = Tick(**at_hand["tick"]), Batch.from_state(at_hand["labelled"])
            passes = at_hand["passes"] if "passes" in at_hand else self._passes_of(tick)  # an earlier incr kept none
            held = Batch.from_state(at_hand["held"]) if "held" in at_hand else None
            self.increment = AtHand(tick, labelled, at_hand["begun"], passes, held)
        exchanged: dict[str, Any] = state["exchanged"]
        return exchanged

    def close(self) -> None:
        """Stop reading ahead."""
        stop: Callable[[], None] | None = getattr(self._increments, "close", None)
        if stop is not None:
            stop()
