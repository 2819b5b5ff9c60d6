"""The application of `incr serve` on Ray Serve: replicas on the nodes of a cluster, behind its HTTP proxies."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.routing import Mount

from cluster.session import Session, quietly
from incr_core.errors import ArgumentError, EngineError
from incr_core.serving import Champion, Serving, application, is_postgres
from incr_core.shown import shown

__all__ = ["serve_on_ray"]

NAME = "incr"
"""Name of the application in Ray Serve."""

QUIET = {"log_level": "ERROR", "enable_access_log": False}


def serve_on_ray(directory: str, options: Mapping[str, Any], stop: threading.Event) -> None:
    """Serve a run with `workers` replicas until asked to stop, then remove the application again.

    Args:
        directory: The run directory, which every node reaches.
        options: Those of `Serving`, by name.
        stop: Set to stop.

    Raises:
        ArgumentError: A journal is on one host.
        EngineError: The replicas do not start.
    """
    chosen = Serving(**options)
    if chosen.journal is not None and not is_postgres(chosen.journal):
        raise ArgumentError(
            f"--journal {chosen.journal}: expected postgresql:// with --on cluster, whose replicas are on several "
            "hosts, got a folder; name a database"
        )
    chosen.check_run(directory)
    token = chosen.token()
    number = Champion(directory).current.version.number
    http = {
        "host": chosen.host,
        "port": chosen.port,
        "location": "EveryNode",
        "ssl_certfile": chosen.tls_cert,
        "ssl_keyfile": chosen.tls_key,
    }
    # Proxies and the controller of Ray Serve take no CPU slot.
    session = Session(None, slots=chosen.workers)
    try:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with quietly():
            serve.start(http_options=http, logging_config=QUIET)

            def made() -> Starlette:
                return _made(directory, chosen, token)

            deployment = serve.deployment(
                name=NAME,
                num_replicas=chosen.workers,
                ray_actor_options={"num_cpus": 1},
                max_ongoing_requests=chosen.concurrency,
                logging_config=QUIET,
            )(serve.ingress(made)(_Replica))
            try:
                serve.run(deployment.bind(), name=NAME)
            except RuntimeError as error:
                raise EngineError(f"--on cluster: expected {chosen.workers} replicas to start, got: {error}") from error
        scheme = "http" if chosen.tls_cert is None else "https"
        print(f"serving {shown(directory)}, version {number}, on {scheme}://{chosen.host}:{chosen.port}", flush=True)
        stop.wait()
        with quietly():
            serve.delete(NAME)  # not Serve itself, which may have other applications
    finally:
        session.close()


class _Replica:
    """A replica, which answers as its application does."""


def _made(directory: str, options: Serving, token: str | None) -> Starlette:
    """Return the application of a replica, as the Starlette that Ray Serve expects."""
    app = application(directory, options, token)

    @asynccontextmanager
    async def closed(outer: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, app.close)

    return Starlette(routes=[Mount("/", app=app)], lifespan=closed)
