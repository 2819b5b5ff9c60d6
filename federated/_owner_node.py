"""The node of an owner on a SuperLink: it receives messages and sends answers in one long-running process.

Flower's own SuperNode starts a process for every message, and polls for messages every 3 s.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message

from federated import _flower_privates as flower
from incr_core.errors import EngineError, JobError

__all__ = ["OwnerNode", "TurnedAway", "node_key"]

HEARTBEAT = 10.0
"""Seconds for which a heartbeat is valid. The SuperLink waits for twice as long before it counts a node as gone."""

PAUSES = (0.05, 0.5)
"""Seconds between two polls for messages: after a message, and at most."""

Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]


class TurnedAway(EngineError):
    """The SuperLink answers, and refuses this node."""


class OwnerNode:
    """A node that has joined the SuperLink at `address`, within a `with` statement.

    Args:
        address: "HOST:PORT" of the SuperLink.
        certificates: PEM certificates that signed the SuperLink's. None: no TLS.
        keys: Keys that are registered at the SuperLink. None: the node registers new ones, if the SuperLink admits all.

    Raises:
        EngineError: The SuperLink refuses the node, or does not answer.
    """

    def __init__(self, address: str, certificates: bytes | None = None, keys: Keys | None = None) -> None:
        self._address = address
        self._registers = keys is None
        self._keys = flower.generate_key_pairs() if keys is None else keys
        self._client = flower.FleetHttpClient.from_server_address(
            address,
            certificates is None,
            certificates,
            [
                flower.RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                flower.NodeAuthHttpInterceptor(*self._keys),
            ],
        )
        self._left = threading.Event()
        self._pause = PAUSES[0]

    def __enter__(self) -> OwnerNode:
        key = flower.public_key_to_bytes(self._keys[1])
        try:
            if self._registers:
                self._client.RegisterNode(flower.RegisterNodeFleetRequest(public_key=key))
            joined = self._client.ActivateNode(flower.ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT))
        except httpx.HTTPError as error:
            self._client.close()
            raise self._fault(error, joins=True) from error
        self.node = flower.Node(node_id=joined.node_id)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        try:
            self._client.DeactivateNode(flower.DeactivateNodeRequest(node_id=self.node.node_id))
            if self._registers:
                self._client.UnregisterNode(flower.UnregisterNodeFleetRequest(node_id=self.node.node_id))
        except (httpx.HTTPError, RuntimeError):  # the SuperLink will notice that the node is gone
            pass
        self._client.close()

    def receive(self) -> Message | None:
        """Return the next message; None after a while without any."""
        try:
            found = self._client.PullMessages(flower.PullMessagesRequest(node=self.node))
            if not found.messages_list:
                time.sleep(self._pause)
                self._pause = min(self._pause * 1.5, PAUSES[1])
                return None
            self._pause = PAUSES[0]
            metadata = flower.message_from_proto(found.messages_list[0]).metadata
            run = metadata.run_id
            received = flower.make_confirm_message_received_fn_protobuf(
                self._client.ConfirmMessageReceived, self.node, run
            )
            message: Message = flower.pull_and_inflate_object_from_tree(
                found.message_object_trees[0],
                flower.make_pull_object_fn_protobuf(self._client.PullObject, self.node, run),
                received,
                return_type=Message,
            )
        except Exception as error:  # includes what Flower raises for an incomplete message
            raise self._fault(error) from error
        return flower.named(message, metadata.message_id)

    def send(self, reply: Message) -> None:
        """Answer a message."""
        try:
            with flower.no_object_id_recompute():
                objects = flower.get_all_nested_objects(flower.named(reply))
                bare = flower.message_to_proto(_without_content(reply))
                sent = self._client.PushMessages(
                    flower.PushMessagesRequest(
                        node=self.node,
                        messages_list=[bare],
                        message_object_trees=[flower.get_object_tree(reply)],
                        clientapp_runtime_list=[0.0],
                    )
                )
                push = flower.make_push_object_fn_protobuf(
                    self._client.PushObject, self.node, reply.metadata.run_id, sent.session_id
                )
                flower.push_objects(objects, push, object_ids_to_push=set(sent.objects_to_push))
        except Exception as error:
            raise self._fault(error) from error

    def _beat(self) -> None:
        """Send heartbeats until the node leaves."""
        while not self._left.wait(HEARTBEAT / 2):
            try:
                self._client.SendNodeHeartbeat(
                    flower.SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=HEARTBEAT)
                )
            except (httpx.HTTPError, RuntimeError):  # polling for messages fails too, and reports it
                continue

    def _fault(self, error: Exception, *, joins: bool = False) -> EngineError:
        """Return the error to raise.

        A node that was joined may join again after a restart of the SuperLink; joins: it has not.
        """
        place = f"--superlink {self._address}"
        if not isinstance(error, httpx.HTTPStatusError):
            return EngineError(f"{place}: expected a SuperLink, got {type(error).__name__}: {error}")
        told = flower.FlowerError.from_json(error.response.text)
        what = f"status {error.response.status_code} ({told.message if told else error.response.text[:200]})"
        if joins and error.response.status_code in (401, 403, 412):
            return TurnedAway(
                f"{place}: expected to be let in, got {what}; register the node's public key there "
                "(flwr supernode register), join with the private one (--key), and in one process alone"
            )
        return EngineError(f"{place}: expected to be let in, got {what}")


def _without_content(message: Message) -> Message:
    return flower.remove_content_from_message(message) if message.has_content() else message


def node_key(path: str | Path) -> Keys:
    """Return the keys in a file with an EC private key in OpenSSH's format, which Flower uses."""
    try:
        key = load_ssh_private_key(Path(path).expanduser().read_bytes(), None)
    except OSError as error:
        raise JobError(f"--key {path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # TypeError: it has a passphrase
        raise JobError(f"--key {path}: expected a private key in OpenSSH's format, got otherwise ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise JobError(f"--key {path}: expected an elliptic curve key (P-384), got {type(key).__name__}")
    return key, key.public_key()
