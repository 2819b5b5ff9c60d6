"""A run on a SuperLink whose ServerApp is this process.

Flower starts a ServerApp in a separate process. Here the user's command is the ServerApp: it starts a run with an app
that consists only of names (the two installed apps of incr), takes its task, and uses its grid.
"""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import httpx
from flwr.app import Message

from federated import _flower_privates as flower
from incr_core.errors import EngineError, JobError

__all__ = ["SuperLinkGrid", "certificate"]

PAUSES = (0.02, 0.5)
"""Seconds between two polls for replies: first and longest."""

PATIENCE = 60.0
"""Seconds for which requests are repeated if the SuperLink does not answer."""

TRIES = 5
"""Number of attempts to start a run whose task another process takes. A SuperLink may start ServerApps itself."""

log = logging.getLogger("incr.federated")

APP = """\
[project]
name = "incr"
version = "{version}"
description = "Learn inside clients: our apps as they are installed, no code"
license = "MIT"

[tool.flwr.app]
publisher = "incr"

[tool.flwr.app.components]
serverapp = "federated.server_app:app"
clientapp = "federated.client_app:app"

[tool.flwr.app.config]
job = ""
out = ""
"""


class SuperLinkGrid(flower.RunGrid):
    """Reaches the nodes of the SuperLink at `address` ("HOST:PORT"), as the ServerApp of a new run.

    Args:
        address: The SuperLink.
        certificates: PEM file with the certificates that signed the SuperLink's. None: no TLS.

    Raises:
        EngineError: There is no SuperLink, or it refuses.
    """

    def __init__(self, address: str, certificates: str | None = None) -> None:
        trusted = certificate(certificates, "federated.certificates")
        where = address, trusted is None, trusted
        try:
            token = _claimed(*where)
            super().__init__(*where, token, PATIENCE)
            given = self.client.PullTaskInput(flower.PullTaskInputRequest())
        except httpx.HTTPError as error:
            command = f"flower-superlink --insecure --isolation process --port {address.rpartition(':')[2]}"
            raise EngineError(
                f"federated.superlink: expected a SuperLink at {address}, got {_said(error)}; mend the address, or "
                f"start one: {command}"
            ) from error
        run = flower.run_from_proto(given.run)
        flower.TaskIdentity.task_id, flower.TaskIdentity.run_id = given.task_id, run.run_id
        flower.TaskIdentity.node_id = self.node.node_id
        self.set_run(run)
        self._heartbeat = flower.HeartbeatSender(flower.make_task_heartbeat_fn_http(self.client))
        self._heartbeat.start()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages. Return the names of their answers, empty for messages that could not be sent.

        A SuperLink drops messages that arrive too slowly (Flower's push sessions last 180 s). Each message is then sent
        once more, separately. One that fails again counts as lost, and does not delay the others.
        """
        wanted = list(messages)
        try:
            return list(super().push_messages(wanted))
        except flower.ObjectPushError:
            return [self._pushed_alone(message) for message in wanted]

    def _pushed_alone(self, message: Message) -> str:
        try:
            return next(iter(super().push_messages([message])), "")
        except flower.ObjectPushError as error:
            log.warning("federated: a message to node %s was not sent: %s", message.metadata.dst_node_id, error)
            return ""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies. After `timeout` seconds, return those that have arrived.

        Flower's own method polls every 3 s.
        """
        waiting = {sent for sent in self.push_messages(messages) if sent}
        deadline = None if timeout is None else time.monotonic() + timeout
        found: list[Message] = []
        pause, longest = PAUSES
        while waiting:
            here = list(self.pull_messages(waiting))
            found += here
            waiting -= {message.metadata.reply_to_message_id for message in here}
            if not waiting or (deadline is not None and time.monotonic() > deadline):
                break
            time.sleep(pause)
            pause = PAUSES[0] if here else min(pause * 1.5, longest)
        return found

    def finish(self) -> None:
        """Report the end of the run to the SuperLink, and disconnect."""
        self.hurry()
        self._heartbeat.stop()
        try:
            done = flower.PushTaskOutputRequest(sub_status=flower.SubStatus.COMPLETED, details="")
            self.client.PushTaskOutput(done)
        except httpx.HTTPError:  # the SuperLink has ended before
            pass
        self.close()


def certificate(path: str | None, place: str) -> bytes | None:
    """Return the content of a file with certificates; None without a path. place: the option or key, for errors."""
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise JobError(f"{place}: expected a file with certificates, got {path}: {error.strerror}") from error


def _claimed(address: str, insecure: bool, trusted: bytes | None) -> str:
    """Start a run and take its task. Return the token of the task."""
    with warnings.catch_warnings():
        # Flower 1.41 uses a name of pathspec's that newer ones deprecate.
        warnings.simplefilter("ignore", DeprecationWarning)
        fab, _ = flower.build_fab_from_files({"pyproject.toml": APP.format(version=version("incr")).encode()})
    names = flower.fab_to_proto(flower.Fab(hashlib.sha256(fab).hexdigest(), fab, {}))
    known: list[flower.ProtobufClientInterceptor] = [
        flower.RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
        flower.CliClientHttpInterceptor(),
    ]
    control = flower.ControlHttpClient.from_server_address(address, insecure, trusted, known)
    executor = [flower.RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    runtime = flower.RuntimeHttpClient.from_server_address(address, insecure, trusted, executor)
    try:
        for _ in range(TRIES):
            control.StartRun(flower.StartRunRequest(fab=names))
            task = runtime.AcquireTask(flower.AcquireTaskRequest(supported_task_types=[flower.TaskType.SERVER_APP]))
            # All runs of incr have the same app, so one that another process has started can be used too.
            if task.HasField("task") and task.token:
                return str(task.token)
    finally:
        control.close()
        runtime.close()
    raise EngineError(
        f"federated.superlink: expected the SuperLink at {address} to leave a run to us, got one that starts "
        "ServerApps itself; start it with --isolation process"
    )


def _said(error: httpx.HTTPError) -> str:
    """Return an error in one line."""
    if isinstance(error, httpx.HTTPStatusError):
        told = flower.FlowerError.from_json(error.response.text)
        return f"status {error.response.status_code}" + (f" ({told.message})" if told else "")
    return f"{type(error).__name__}: {error}"
