"""The increment that a participant is at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from incr_core.batch import Batch, cat
from incr_core.data.timeline import Tick

__all__ = ["AtHand"]


@dataclass(slots=True)
class AtHand:
    """The increment that a participant is at: its rows to learn, whether it has begun to, and the passes over them.

    held: rows held back to judge versions on, which are learned with the next increment; None where there are none.
    """

    tick: Tick
    labelled: Batch
    begun: bool = False
    passes: int = 1
    held: Batch | None = None

    @property
    def waiting(self) -> bool:
        """Whether it has rows whose learning has not begun."""
        return (not self.begun and len(self.labelled) > 0) or self.held is not None

    @property
    def left(self) -> Batch:
        """The rows whose learning has not begun: those that the next increment begins with."""
        labelled = self.labelled.slice(0, 0) if self.begun else self.labelled
        return labelled if self.held is None else cat([labelled, self.held])

    def state_dict(self, *, whole: bool) -> dict[str, Any]:
        """As states keep it. whole: all of it; else what is left."""
        left = AtHand(self.tick, self.left, False, self.passes)
        kept = self if whole else left
        return {
            "tick": asdict(kept.tick),
            "labelled": kept.labelled.state_dict(),
            "begun": kept.begun,
            "passes": kept.passes,
            **({} if kept.held is None else {"held": kept.held.state_dict()}),
        }
