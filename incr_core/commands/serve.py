"""`incr serve`: the server of a run's champion, as a process."""

from __future__ import annotations

import socket
from pathlib import Path

from uvicorn import Config, Server

from incr_core.errors import JobError
from incr_core.serving import MAX_BYTES, MAX_ROWS, App, BoundedHttp, Champion
from incr_core.shown import shown

__all__ = ["serve"]


def serve(
    directory: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
) -> None:
    """Answer until told to stop. Port 0 takes any that is free; the address is printed once it is open."""
    for name, value in (("--max-bytes", max_bytes), ("--max-rows", max_rows)):
        if value < 1:
            raise JobError(f"{name}: expected at least 1, got {value}")
    champion = Champion(directory)
    app = App(champion, max_bytes=max_bytes, max_rows=max_rows)
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise JobError(f"--port {port}: cannot be opened on {host}: {error.strerror}; choose another") from error
    with listening:
        bound = listening.getsockname()[1]
        where = shown(directory)
        champion.follow()
        print(f"serving {where}, version {champion.look().number}, on http://{host}:{bound}", flush=True)
        Server(Config(app, log_level="warning", http=BoundedHttp, ws="none", lifespan="off")).run(sockets=[listening])
    champion.close()
    app.close()
