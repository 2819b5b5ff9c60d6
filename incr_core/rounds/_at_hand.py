"""A participant's current increment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from incr_core.batch import Batch, cat
from incr_core.data.timeline import Tick

__all__ = ["AtHand"]


@dataclass(slots=True)
class AtHand:
    """A participant's current increment.

    Attributes:
        tick: Its tick.
        labelled: Its rows to learn.
        begun: Whether learning has begun.
        passes: Passes over the rows.
        held: Rows held back to judge versions, learned with the next increment. None if no rows are held back.
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
        """Rows whose learning has not begun. The next increment starts with them."""
        labelled = self.labelled.slice(0, 0) if self.begun else self.labelled
        return labelled if self.held is None else cat([labelled, self.held])

    def state_dict(self, *, whole: bool) -> dict[str, Any]:
        """Return the complete state, or only the rows left if not `whole`."""
        left = AtHand(self.tick, self.left, False, self.passes)
        kept = self if whole else left
        return {
            "tick": asdict(kept.tick),
            "labelled": kept.labelled.state_dict(),
            "begun": kept.begun,
            "passes": kept.passes,
            **({} if kept.held is None else {"held": kept.held.state_dict()}),
        }
