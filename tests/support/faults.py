"""Strategies in which something befalls the worker, once: a job names them, and goes on after them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from incr_core.batch import Batch
from incr_core.strategies import Context, Strategy

__all__ = ["Befalls"]

STAGES = ("learning", "consolidating", "saving", "beginning", "predicting")


class Befalls(Strategy):
    """Something befalls the process of the replica with this seed at a stage of an increment.

    how: "dies" (SIGKILL), "stops" (SIGSTOP), "hangs" (in a call that does not return) or "raises". marker: a file that
    says that it has happened; always: it happens every time.
    """

    context: Context

    def __init__(self, how: str, stage: str, marker: str, seed: int, increment: int, always: bool = False) -> None:
        super().__init__()
        self.how, self.stage = how, stage
        self.marker = marker
        self.seed = seed
        self.increment = increment
        self.always = always

    def attach(self, ctx: Context) -> None:
        self.context = ctx

    def _reach(self, stage: str) -> None:
        mine = self.context.generator.initial_seed() == self.seed and self.context.increment == self.increment
        if stage != self.stage or not mine or (Path(self.marker).exists() and not self.always):
            return
        Path(self.marker).touch()
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.how == "hangs":
            time.sleep(3600)
        else:
            raise RuntimeError("a device has failed")

    def begin(self, ctx: Context) -> None:
        self._reach("beginning")

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """In the middle of an increment, while the others go on to the exchange."""
        self._reach("learning")

    def end(self, ctx: Context, labelled: Batch) -> None:
        """After the exchange of weights, before that of the strategies' state."""
        self._reach("consolidating")

    def get_extra_state(self) -> dict[str, Any]:
        """While the others write their state for a commit."""
        self._reach("saving")
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """There is nothing to take back."""
