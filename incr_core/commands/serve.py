"""`incr serve`: the server of a run's champion, in one process or several."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import sys
import threading
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from uvicorn import Config, Server

from incr_core._util import set_by_signals
from incr_core.commands._workers import Ready, run_workers
from incr_core.engines import engine_named
from incr_core.errors import ArgumentError
from incr_core.serving import Board, BoundedHttp, Serving, application
from incr_core.shown import shown

__all__ = ["serve"]


def serve(directory: str | Path, options: Serving | None = None) -> None:
    """Serve until a signal ends the process. Port 0 takes any free port; the address is printed when it is open."""
    options = options or Serving()
    options.check()
    if options.on != "local":
        with set_by_signals(stop := threading.Event()):
            engine_named(options.on).serve(str(directory), dataclasses.asdict(options), stop)
        return
    options.check_run(directory)
    token = options.token()
    lock = options.claim()
    host, port = options.host, options.port
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ArgumentError(f"--port {port}: cannot be opened on {host}: {error.strerror}; choose another") from error
    board = Board(options.workers)

    def begun(number: int) -> None:
        if token is None and not _is_loopback(listening.getsockname()[0]):
            print(f"incr: {host} is open to every client; restrict it with --token-file", file=sys.stderr)
        scheme = "http" if options.tls_cert is None else "https"
        address = f"{scheme}://{host}:{listening.getsockname()[1]}"
        print(f"serving {shown(directory)}, version {number}, on {address}", flush=True)

    def work(place: int, ready: Ready) -> None:
        _answer(directory, options, token, listening, board, place, ready)

    with listening, ExitStack() as left:
        if lock is not None:
            left.callback(lock.release)
        if options.workers == 1:
            work(0, begun)
        else:
            run_workers(options.workers, work, begun=begun, replaced=board.replace)


def _answer(
    directory: str | Path,
    options: Serving,
    token: str | None,
    listening: socket.socket,
    board: Board,
    place: int,
    ready: Ready,
) -> None:
    """Serve as one worker."""
    app = application(directory, options, token, board, place)
    config = Config(
        app,
        log_level="warning",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        server_header=False,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ArgumentError(
            f"--tls-cert {options.tls_cert}: cannot be used: {error}; name a certificate and its key"
        ) from None
    ready(app.champion.look().number)
    Server(config).run(sockets=[listening])


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback
