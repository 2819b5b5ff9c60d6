"""`incr ingest`: rows from the network become files of a folder that `incr run --follow` learns."""

from __future__ import annotations

import socket
import sys
import threading
from ipaddress import ip_address
from pathlib import Path

from incr_core._util import set_by_signals
from incr_core.errors import ArgumentError
from incr_core.ingest import FlightIngest, GroupCommit, Ingest
from incr_core.shown import shown

__all__ = ["ingest"]


def ingest(folder: str, options: Ingest) -> None:
    """Take rows until SIGTERM or Ctrl-C. The address is printed once it is open; port 0 takes a free one."""
    options.check()
    lock = options.claim(folder)
    try:
        with set_by_signals(stop := threading.Event()):
            if options.source is None:
                _from_flight(folder, options, stop)
            else:
                _from_redis(folder, options.source, options, stop)
    finally:
        lock.release()


def _from_flight(folder: str, options: Ingest, stop: threading.Event) -> None:
    token, tls = options.token(), options.tls()
    commit = GroupCommit(
        Path(folder),
        pending=options.max_pending,
        linger=options.linger,
        room=options.room(),
        schema=options.columns(),
    )
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "grpc" if tls is None else "grpc+tls"
    server = FlightIngest(
        f"{scheme}://{host}:{options.port}", commit, token=token, tls=tls, max_bytes=options.max_bytes
    )
    if token is None and not _is_loopback(options.host):
        print(f"incr: any client that reaches {options.host} may write; give --token-file", file=sys.stderr)
    print(f"taking rows for {shown(folder)} on {scheme}://{host}:{server.port}", flush=True)
    stop.wait()
    commit.close()


def _from_redis(folder: str, source: str, options: Ingest, stop: threading.Event) -> None:
    try:
        from incr_core.ingest.redis import RedisIngest
    except ModuleNotFoundError as missing:
        raise ArgumentError(
            f"--from: needs {missing.name}, which is not installed; pip install 'incr[redis]'"
        ) from missing
    consumer = RedisIngest(
        source, Path(folder), room=options.room(), schema=options.columns(), max_bytes=options.max_bytes
    )
    told = f"taking entries of {consumer.name} for {shown(consumer.table.folder)}"
    consumer.run(stop, lambda: print(told, flush=True))
    print(
        f"stopped: {consumer.landed:,} entries landed, {consumer.repeated:,} repeated, {consumer.bad:,} in quarantine",
        flush=True,
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
