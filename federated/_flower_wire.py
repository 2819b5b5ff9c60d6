"""What we use of Flower's HTTP APIs beyond its documented one, in one place.

The SuperLink has three: Control starts a run, Runtime serves a run's ServerApp, Fleet serves the nodes. Flower reaches
them from processes that it starts itself; a server and an owner of ours are processes that a person starts.
"""

from __future__ import annotations

from flwr.app import Message

from federated._flower_version import undocumented

with undocumented():
    from flwr.app.message import remove_content_from_message
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
    from flwr.common.constant import SubStatus
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
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

__all__ = [
    "AcquireTaskRequest",
    "ActivateNodeRequest",
    "CliClientHttpInterceptor",
    "ControlHttpClient",
    "DeactivateNodeRequest",
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
    "RunGrid",
    "RuntimeHttpClient",
    "RuntimeVersionHttpInterceptor",
    "SendNodeHeartbeatRequest",
    "StartRunRequest",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "UnregisterNodeFleetRequest",
    "build_fab_from_files",
    "fab_to_proto",
    "generate_key_pairs",
    "get_all_nested_objects",
    "get_object_tree",
    "make_confirm_message_received_fn_protobuf",
    "make_pull_object_fn_protobuf",
    "make_push_object_fn_protobuf",
    "make_task_heartbeat_fn_http",
    "message_from_proto",
    "message_to_proto",
    "named",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "pull_and_inflate_object_from_tree",
    "push_objects",
    "remove_content_from_message",
    "run_from_proto",
]


class RunGrid(HttpGrid):
    """Flower's grid of one run, with what it keeps to itself by public names.

    patience: seconds to try again where the SuperLink does not answer.
    """

    def __init__(self, address: str, insecure: bool, trusted: bytes | None, token: str, patience: float) -> None:
        super().__init__(address, insecure, trusted, token=token)
        self._retry_invoker.max_time = patience

    @property
    def client(self) -> RuntimeHttpClient:
        """What it asks the SuperLink with."""
        return self._runtime_client

    def hurry(self) -> None:
        """Try nothing again any more."""
        self._retry_invoker.max_tries = 1


def named(message: Message, name: str | None = None) -> Message:
    """The message, with this name, or by default the one that its content gives it."""
    message.metadata.__dict__["_message_id"] = message.object_id if name is None else name
    return message
