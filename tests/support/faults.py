"""Strategies that kill the worker they are in, once: a job names them, a test resumes after them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from torch import Tensor

from incr_core.batch import Batch
from incr_core.strategies import Context, Strategy

__all__ = ["DiesConsolidating", "DiesLearning", "DiesSaving"]


class Dies(Strategy):
    """SIGKILL the process of the replica with this seed at an increment, unless `marker` tells that it has happened."""

    context: Context

    def __init__(self, marker: str, seed: int, increment: int) -> None:
        super().__init__()
        self.marker = marker
        self.seed = seed
        self.increment = increment

    def attach(self, ctx: Context) -> None:
        self.context = ctx

    def die(self) -> None:
        mine = self.context.generator.initial_seed() == self.seed
        if mine and self.context.increment == self.increment and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DiesLearning(Dies):
    """Die in the middle of an increment, while the others go on to the exchange."""

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        self.die()


class DiesConsolidating(Dies):
    """Die after the exchange of weights, before that of the strategies' state."""

    def end(self, ctx: Context, labelled: Batch) -> None:
        self.die()


class DiesSaving(Dies):
    """Die while the others write their state for a commit."""

    def get_extra_state(self) -> dict[str, Any]:
        self.die()
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """There is nothing to take back."""
