"""A participant's current increment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from incr_core.batch import Batch
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
    """

    tick: Tick
    labelled: Batch
    begun: bool = False
    passes: int = 1

    @property
    def waiting(self) -> bool:
        """Whether it has rows whose learning has not begun."""
        return not self.begun and len(self.labelled) > 0

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state."""
        return {
            "tick": asdict(self.tick),
            "labelled": self.labelled.state_dict(),
            "begun": self.begun,
            "passes": self.passes,
        }
