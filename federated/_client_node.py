"""`incr client`: an owner's client on a SuperLink, in one process that stays until it is asked to stop."""

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
"""Seconds for which a SuperLink may hold a node's place that has died: until then it lets none in with the same key."""


def serve(file: str, address: str, certificates: str | None = None, key: str | None = None) -> None:
    """Serve the owner that the client's file tells of, on the SuperLink at `address`, until asked to stop.

    certificates: a file with those that the SuperLink's is signed by; None: no TLS. key: the file of the private key
    that is registered there. A SuperLink that is not there, or goes away, is tried again; EngineError where it turns
    the client away.
    """
    place = str(Path(file).expanduser().absolute())
    trusted = certificate(certificates, "--certificates")
    keys = None if key is None else node_key(key)
    owner, stop, away = Owner.of(place), threading.Event(), ""
    turned: float | None = None  # since when it is turned away
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
    """The runs that an owner has taken part in, a line each.

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
    """Inside, SIGINT and SIGTERM let the message at hand be answered; the second time, they end the process."""

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
    """What the app says; it alone, whatever app the server has sent."""
    context = Context(message.metadata.run_id, node.node.node_id, {CLIENT: file}, RecordDict(), {})
    try:
        return app(message, context)
    except Exception as error:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
