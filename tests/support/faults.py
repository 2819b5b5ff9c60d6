"""Something befalls a worker at a stage of its work: a job names the strategy, the worker's process is the test's.

The stages come in the order in which a worker comes to them. Nothing in the code that is tested knows of them: the
strategy wraps what is called then, in the process that it finds itself in.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor

from incr_core.batch import Batch
from incr_core.strategies import Context, Strategy

__all__ = ["STAGES", "Befalls"]

STAGES = (
    "join",
    "receive",
    "absorb",
    "step",
    "before the exchange",
    "before the outer step",
    "consolidate",
    "hand over",
    "before it saves",
    "after it has saved",
    "judge",
    "follow the verdict",
)


class Befalls(Strategy):
    """Something befalls the process of one worker, once at each of these stages.

    how: "dies" (SIGKILL), "stops" (SIGSTOP), "hangs" (in a call that does not return) or "raises". seed: of the learner
    whose replica is meant; rank: which shard of it. after: how many times the stage passes before; `join` has no such
    count, so name another stage too, whose loss makes workers join again. folder: where it is noted that a stage has
    been. always: it comes every time, and to whoever takes the place at once.
    """

    def __init__(
        self,
        how: str,
        stages: Sequence[str],
        folder: str,
        seed: int = 1,
        rank: int = 0,
        after: int = 2,
        always: bool = False,
    ) -> None:
        super().__init__()
        self.how, self.stages, self.folder = how, list(stages), folder
        self.seed, self.rank, self.after, self.always = seed, rank, after, always

    def attach(self, ctx: Context) -> None:
        from cluster import _process_groups as groups
        from cluster._exchange import ReplicaExchange
        from incr_core.learner import Learner
        from incr_core.numerics import FlatTensors
        from incr_core.rounds import Contributor, Snapshot
        from incr_core.rounds._outer import Nesterov

        if ctx.generator.initial_seed() != self.seed:
            return
        wrap: dict[str, tuple[Any, str]] = {
            "join": (groups, "between_replicas"),
            "receive": (Contributor, "receive"),
            "absorb": (Learner, "absorb"),
            "before the exchange": (ReplicaExchange, "mean"),
            "before the outer step": (Nesterov, "step"),
            "consolidate": (Contributor, "consolidate"),
            "hand over": (FlatTensors, "of"),
            "before it saves": (Snapshot, "write"),
            "after it has saved": (Snapshot, "write"),
            "judge": (Contributor, "judge"),
            "follow the verdict": (Contributor, "order"),
            "step": (Befalls, "stepped"),
        }
        for stage in self.stages:
            self._wrap(*wrap[stage], stage)

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        self.stepped()

    def stepped(self) -> None:
        """A step is taken. Wrapped, as `after_step` cannot be: the learner has looked it up before."""

    def _wrap(self, kind: Any, name: str, stage: str) -> None:
        method: Callable[..., Any] = getattr(kind, name)
        again = self.always and Path(self.folder, stage).exists()
        left = 0 if stage == "join" or again else self.after

        @wraps(method)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if stage == "after it has saved":
                result = method(*arguments, **options)
            left -= 1
            if left < 0:
                self._reach(stage)
            return result if stage == "after it has saved" else method(*arguments, **options)

        setattr(kind, name, wrapped)

    def _reach(self, stage: str) -> None:
        import torch.distributed as dist

        rank = dist.get_rank() if dist.is_initialized() else 0
        marker = Path(self.folder, stage)
        if rank != self.rank or (marker.exists() and not self.always):
            return
        if stage == "join" and not any(Path(self.folder, other).exists() for other in self.stages if other != stage):
            return  # the first time they all meet
        marker.touch()
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.how == "hangs":
            time.sleep(3600)
        else:
            # Who raises the same again after it was replaced ends the run: it joins after another fault.
            raise RuntimeError("a device has failed" + " again" * (stage == "join"))
