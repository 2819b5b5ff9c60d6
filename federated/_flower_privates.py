"""What we use of Flower beyond its documented API, in one place.

A grid of one's own needs more than `Grid` tells: who a message comes from, a message's number, a message put together
again where it arrives; and a record whose bytes are not copied on their way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, Message, RecordDict
from flwr.simulation import run_simulation

from federated._flower_version import fault, undocumented

with undocumented():
    from flwr.app.message import make_message
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "ErrorCode",
    "Run",
    "be_server_of",
    "flat_array",
    "message_of",
    "number",
    "run_numbered",
    "run_simulation",
]


def run_numbered(number: int) -> Run:
    """A run that nobody has submitted."""
    return Run.create_empty(number)


def be_server_of(run: Run) -> None:
    """Let messages made in this process come from the server of this run, as Flower's own servers do at their start."""
    TaskIdentity.run_id = run.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = 1


def number(message: Message, name: str) -> None:
    """Give a message the name that a reply refers to."""
    message.metadata.__dict__["_message_id"] = name


def message_of(metadata: Any, content: RecordDict) -> Message:
    """A message put together from its parts."""
    return make_message(metadata=metadata, content=content)


def flat_array(buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> Array:
    """An array that holds this buffer itself: all uses of `data` take any buffer, and pickle passes it by reference."""
    array = Array(dtype="uint8", shape=(buffer.nbytes,), stype="incr.flat", data=b"")
    array.__dict__["data"] = buffer
    return array


def _check() -> None:
    """IncrError where this Flower does otherwise."""
    faults: list[str] = []
    kept = {name: value for name, value in vars(TaskIdentity).items() if name in ("_run_id", "_node_id", "_task_id")}
    try:
        be_server_of(run_numbered(1))
        message = Message(RecordDict(), 1, "query")
        number(message, "7")
        if message.metadata.message_id != "7" or message_of(message.metadata, RecordDict()).metadata.message_id != "7":
            faults.append("the number of a message")
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
