"""The names of Flower beyond its documented API that incr uses, in one place.

A grid outside Flower needs more than `Grid` documents: the source of a message, a message's name, and the
reconstruction of a message on arrival; and a record whose bytes are not copied on the way.

The SuperLink has three HTTP APIs: Control starts a run, Runtime serves a run's ServerApp, Fleet serves the nodes.
Flower uses them from processes that it starts itself. The server and the owners of incr are processes that a user
starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flwr
import numpy as np
from flwr.app import Array, Message, RecordDict
from flwr.simulation import run_simulation

from incr_core.errors import IncrError

__all__ = [
    "SUPERLINK_NODE_ID",
    "AcquireTaskRequest",
    "ActivateNodeRequest",
    "CliClientHttpInterceptor",
    "ControlHttpClient",
    "DeactivateNodeRequest",
    "ErrorCode",
    "Fab",
    "FleetHttpClient",
    "FlowerError",
    "HeartbeatSender",
    "Node",
    "NodeAuthHttpInterceptor",
    "ObjectPushError",
    "ProtobufClientInterceptor",
    "PullMessagesRequest",
    "PullTaskInputRequest",
    "PushMessagesRequest",
    "PushTaskOutputRequest",
    "RegisterNodeFleetRequest",
    "Run",
    "RunGrid",
    "RuntimeHttpClient",
    "RuntimeVersionHttpInterceptor",
    "SendNodeHeartbeatRequest",
    "StartRunRequest",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "UnregisterNodeFleetRequest",
    "be_server_of",
    "build_fab_from_files",
    "fab_to_proto",
    "flat_array",
    "generate_key_pairs",
    "get_all_nested_objects",
    "get_object_tree",
    "make_confirm_message_received_fn_protobuf",
    "make_pull_object_fn_protobuf",
    "make_push_object_fn_protobuf",
    "make_task_heartbeat_fn_http",
    "message_from_proto",
    "message_of",
    "message_to_proto",
    "named",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "pull_and_inflate_object_from_tree",
    "push_objects",
    "remove_content_from_message",
    "run_from_proto",
    "run_numbered",
    "run_simulation",
]

TESTED = "1.41.0"


def fault(expected: str, got: str) -> IncrError:
    """Return the error that reports another version of Flower."""
    return IncrError(
        f"flwr {flwr.__version__}: expected {expected} as in flwr {TESTED}, with which incr was tested, got {got}; "
        f"pip install 'flwr=={TESTED}'"
    )


@contextmanager
def undocumented() -> Iterator[None]:
    """Within the context, undocumented names of Flower are imported.

    Raises:
        IncrError: A name is gone.
    """
    try:
        yield
    except ImportError as error:
        raise fault("its undocumented names", str(error)) from error


with undocumented():
    from flwr.app.message import make_message, remove_content_from_message
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus
    from flwr.common.serde import fab_to_proto, message_from_proto, message_to_proto, run_from_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PushMessagesRequest,
        RegisterNodeFleetRequest,
        UnregisterNodeFleetRequest,
    )
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
    from flwr.proto.node_pb2 import Node
    from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.error import FlowerError
    from flwr.supercore.fab import Fab
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_confirm_message_received_fn_protobuf,
        make_pull_object_fn_protobuf,
        make_push_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPushError,
        pull_and_inflate_object_from_tree,
        push_objects,
    )
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supercore.run import Run
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor


class RunGrid(HttpGrid):
    """Flower's grid of one run, with public names for private attributes.

    Args:
        patience: Seconds for which a request is repeated if the SuperLink does not answer.
    """

    def __init__(self, address: str, insecure: bool, trusted: bytes | None, token: str, patience: float) -> None:
        super().__init__(address, insecure, trusted, token=token)
        self._retry_invoker.max_time = patience

    @property
    def client(self) -> RuntimeHttpClient:
        """The client for requests to the SuperLink."""
        return self._runtime_client

    def hurry(self) -> None:
        """Stop repeating requests."""
        self._retry_invoker.max_tries = 1


def named(message: Message, name: str | None = None) -> Message:
    """Give a message its name, to which a reply refers; by default the name derived from its content."""
    message.metadata.__dict__["_message_id"] = message.object_id if name is None else name
    return message


def run_numbered(number: int) -> Run:
    """Return a run that was not submitted."""
    return Run.create_empty(number)


def be_server_of(run: Run) -> None:
    """Make this process the server of this run, so that its messages come from it.

    Flower's servers do this at the start.
    """
    TaskIdentity.run_id = run.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = 1


def message_of(metadata: Any, content: RecordDict) -> Message:
    """Return a message with this metadata and content."""
    return make_message(metadata=metadata, content=content)


def flat_array(buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> Array:
    """Return an array that wraps this buffer: `data` may be any buffer, and pickle passes it by reference."""
    array = Array(dtype="uint8", shape=(buffer.nbytes,), stype="incr.flat", data=b"")
    array.__dict__["data"] = buffer
    return array


def _check() -> None:
    """Check that this version of Flower behaves as expected.

    Raises:
        IncrError: It does not.
    """
    faults: list[str] = []
    kept = {name: value for name, value in vars(TaskIdentity).items() if name in ("_run_id", "_node_id", "_task_id")}
    try:
        be_server_of(run_numbered(1))
        message = Message(RecordDict(), 1, "query")
        named(message, "7")
        if message.metadata.message_id != "7" or message_of(message.metadata, RecordDict()).metadata.message_id != "7":
            faults.append("the number of a message")
        if not isinstance(RunGrid("127.0.0.1:1", True, None, "token", patience=0.0).client, RuntimeHttpClient):
            faults.append("the client of a grid")
        if flat_array(np.ones(1, np.uint8)).data[0] != 1:
            faults.append("the data of an array")
    except Exception as error:
        faults.append(f"messages made by a server ({error})")
    finally:
        for name, value in kept.items():
            setattr(TaskIdentity, name, value)
    if faults:
        raise fault(", ".join(faults), "otherwise")


_check()
