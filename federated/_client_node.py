"""`incr client`: an owner's client on a SuperLink, in one process that runs until it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from federated._client_file import ClientFile
from federated._flower_privates import ErrorCode
from federated._message_records import CLIENT
from federated._owner import Owner, describe
from federated._owner_node import OwnerNode, TurnedAway, node_key
from federated._superlink import certificate
from federated.client_app import app
from incr_core.errors import EngineError
from incr_core.shown import shown

__all__ = ["answer_all", "described", "serve"]

AGAIN = 3.0
"""Seconds before a SuperLink that does not answer is tried again."""

HELD = 30.0
"""Seconds for which a SuperLink may reserve the place of a dead node. Until then it refuses a node with the same key.
"""


def serve(file: str, address: str, certificates: str | None = None, key: str | None = None) -> None:
    """Serve the owner of a client's file on the SuperLink at `address`, until asked to stop.

    A SuperLink that is absent or disappears is tried again.

    Args:
        file: The client's file.
        address: "HOST:PORT" of the SuperLink.
        certificates: File with the certificates that signed the SuperLink's. None: no TLS.
        key: File of the private key that is registered there.

    Raises:
        EngineError: The SuperLink refuses the client.
    """
    place = str(Path(file).expanduser().absolute())
    trusted = certificate(certificates, "--certificates")
    keys = None if key is None else node_key(key)
    owner, stop, away = Owner.of(place), threading.Event(), ""
    turned: float | None = None  # since when it is refused
    try:
        with _stopped_by_signals(stop):
            while not stop.is_set():
                try:
                    with OwnerNode(address, trusted, keys) as node:
                        owner.say(f"client {owner.name} has joined {address}")
                        away, turned = "", None
                        answer_all(node, place, stop)
                except EngineError as error:
                    if isinstance(error, TurnedAway):
                        turned = time.monotonic() if turned is None else turned
                        if time.monotonic() - turned > HELD:
                            raise
                    if str(error) != away:
                        print(f"incr client: {shown(str(error))}; trying again", file=sys.stderr, flush=True)
                    away = str(error)
                    stop.wait(AGAIN)
    finally:
        owner.close()


def described(file: str) -> str:
    """Return the runs in which an owner took part, a line each.

    Example:
        >>> described("/nowhere/client.toml")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: /nowhere/client.toml: expected a client's file, got: No such file or directory
    """
    lines = [
        f"run {one['run']} ({shown(one['job'])}): {one['learned']:,} rows learned, {one['duplicate']:,} duplicates, "
        f"{one['quarantined']:,} refused; ledger {one['sha256'] or 'empty'}"
        for one in describe(ClientFile.read(file))
    ]
    return "\n".join(lines) or "no run has had rows of this client"


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Within the context, the first SIGINT or SIGTERM lets the current message be answered.

    The second ends the process.
    """

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answer_all(node: OwnerNode, file: str, stop: threading.Event) -> None:
    """Answer messages until asked to stop."""
    while not stop.is_set():
        message = node.receive()
        if message is not None:
            node.send(_answer(message, node, file))


def _answer(message: Message, node: OwnerNode, file: str) -> Message:
    """Return the answer of the app of incr, whatever app the server has sent."""
    context = Context(message.metadata.run_id, node.node.node_id, {CLIENT: file}, RecordDict(), {})
    try:
        return app(message, context)
    except Exception as error:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
