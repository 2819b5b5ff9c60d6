"""The loop of a run in a Ray actor, which outlives the process and the host that started it.

    the command         starts the actor, checks that it reaches the run directory, and ends
    the actor           learns in a call to itself; it owns its workers, which end with it
    a new process       of the actor, started by Ray after a loss, continues from the last commit

The run directory records how the run ends (`registry.Detached`). The actor then ends too.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster._actors import never_made
from cluster.session import Session
from incr_core.errors import EngineError, JobError, RunDirectoryError
from incr_core.job import Job
from incr_core.registry import Detached, withdraw_detached
from incr_core.runs import go_on

__all__ = ["DetachedLoop", "start"]

log = logging.getLogger("incr.cluster")

NAMESPACE = "incr"
"""Namespace of detached actors."""

PAUSE = 10.0
"""Seconds before a process that can do nothing ends so that Ray starts another one."""

LOOK = 0.2
"""Seconds between checks whether an actor is gone."""

STARTS = 120.0
"""Seconds in which Ray must have started the actor."""


class DetachedLoop:
    """The actor. It continues to learn without further calls, because no other process may be left to make them."""

    def __init__(self, document: Mapping[str, Any], directory: Path, token: str) -> None:
        self._document, self._directory, self._token = document, directory, token
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._learn_next()

    def begin(self) -> None:
        """Begin to learn. Raises JobError if this host does not reach the run directory."""
        found = Detached.read(self._directory) if self._directory.is_dir() else None
        if found is None or found.token != self._token:
            got = "another folder" if self._directory.is_dir() else "none there"
            raise JobError(
                f"--detach: expected {socket.gethostname()} to reach the run directory {self._directory}, got {got}; "
                "put it on storage that all nodes and this host share, at the same path"
            )
        self._learn_next()

    def learn(self) -> None:
        """Learn. Then end permanently, or let Ray start another process."""
        ended = False
        try:
            ended = go_on(Job.from_document(self._document), self._directory, "cluster", self._token)
        except Exception:  # even the outcome cannot be recorded, for example on a full disk
            log.exception("detached: trying again in %g s", PAUSE)
            time.sleep(PAUSE)
        if ended:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]
        os._exit(1)

    @staticmethod
    def _learn_next() -> None:
        # While Ray counts a new process as restarting, it rejects calls that may not be retried.
        ray.get_runtime_context().current_actor.learn.options(max_task_retries=-1).remote()


def start(job: Job, directory: Path, token: str) -> None:
    """Start the actor and check that it has begun."""
    address = job.cluster.address or os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        raise JobError(
            "--detach: expected a Ray cluster that outlives the command, got one that the command starts; name a "
            "cluster in cluster.address (ray start --head starts one)"
        )
    session = Session(address, slots=0)
    try:
        name = f"{job.name} (run {directory})"
        _make_way(name, directory)
        host = ray.get_runtime_context().gcs_address
        Detached(token, f"on Ray {host}, in the actor {name!r}").write(directory)
        try:
            actor: Any = (
                ray.remote(DetachedLoop)
                .options(name=name, namespace=NAMESPACE, lifetime="detached", num_cpus=0, max_restarts=-1)
                .remote(job.model_dump(), directory, token)
            )
            _await_begun(actor)
        except BaseException:
            withdraw_detached(directory)
            raise
    finally:
        session.close()


def _make_way(name: str, directory: Path) -> None:
    """Wait until the actor of a loop that has ended is gone. Raises RunDirectoryError if the loop is still running."""
    until = time.monotonic() + STARTS
    with suppress(ValueError):  # Ray's error if there is no such actor
        while time.monotonic() < until:
            actor = ray.get_actor(name, NAMESPACE)
            found = Detached.read(directory)
            if found is None or found.goes_on:
                raise RunDirectoryError(
                    f"{directory}: another process (the Ray actor {name!r}) is writing this run; follow it (incr "
                    "attach), stop it (incr stop), or choose another --out"
                )
            ray.kill(actor)  # it has recorded how it ended and is about to end
            time.sleep(LOOK)
        raise EngineError(
            f"--detach: expected the actor {name!r}, whose run has ended, to end too, but it is still alive"
        )


def _await_begun(actor: Any) -> None:
    try:
        ray.get(actor.begin.remote(), timeout=STARTS)
    except RayActorError as death:
        if reason := never_made(death):
            raise EngineError(
                f"--detach: expected Ray to start the loop, got {reason}; install on its nodes what this host has, or "
                "send it along (ray job submit --working-dir)"
            ) from death
        # Otherwise it was lost after it had begun, and another process continues.
    except (RayTaskError, TimeoutError) as failure:
        ray.kill(actor)
        if isinstance(failure, RayTaskError):
            raise failure.cause from None
        raise EngineError(
            f"--detach: expected Ray to start the loop within {STARTS:g} s, got none yet; see its nodes (ray status)"
        ) from failure
