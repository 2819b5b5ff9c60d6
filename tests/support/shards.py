"""Two processes that hold one model together, as the shards of a replica do, without Ray: for many small tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from cluster import _process_groups as groups
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous
from incr_core.job import Job
from incr_core.numerics import settle_arithmetic
from tests.support.repository import ROOT

__all__ = ["SHARDS", "TwoShards", "numbers_job"]

SHARDS = 2
PATIENCE = timedelta(minutes=10)


class TwoShards:
    """Call a function in both processes at once: `two.run(function, *arguments)`, results by shard.

    function: one of a module, called as function(place, *arguments). What it raises is raised again.
    """

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ends = []
        self._processes = []
        for _ in range(SHARDS):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._ends.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, group: bool = True) -> list[Any]:
        """Its results by shard. group: whether torch's default group is made of the two processes before; who makes a
        `ShardWorker`, which makes it itself, is called as function(place, meeting, *arguments).
        """
        meeting, store = Rendezvous.open("127.0.0.1", PATIENCE)
        for shard, end in enumerate(self._ends):
            end.send((Rank(0, 1, shard, SHARDS), meeting, function, arguments, group))
        found = [end.recv() for end in self._ends]
        del store
        for error in (error for error, _ in found if error is not None):
            raise error
        return [result for _, result in found]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end, process in zip(self._ends, self._processes, strict=True):
            end.close()
            process.join()


def numbers_job(people: Path, factory: str, *settings: str) -> Job:
    """A job on two numbers of the made-up table, for whose model a function of this place and name is called."""
    document = {
        "name": "people",
        "root": str(ROOT),
        "stream": {"path": str(people), "every": 100},
        "features": {"label": "size", "numeric": ["height", "weight"], "classes": ["large", "medium", "small"]},
        "model": {"factory": factory},
        "learner": {"objective": "multiclass", "batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    return Job.from_document(document, settings).resolved()


def _serve(end: Connection) -> None:
    torch.set_num_threads(1)
    settle_arithmetic(1)
    while True:
        try:
            place, meeting, function, arguments, group = end.recv()
        except EOFError:
            return
        told: tuple[Exception | None, Any]
        try:
            if group:
                groups.inside_replica(place, meeting.join(), 1, "cpu", PATIENCE)
            told = None, function(place, *arguments) if group else function(place, meeting, *arguments)
        except Exception as error:
            told = error, None
        if dist.is_initialized():
            dist.destroy_process_group()
        end.send(told)
