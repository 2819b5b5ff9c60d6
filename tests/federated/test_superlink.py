"""Over HTTP to Flower's real SuperLink and back: one owner learns the model of the local engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w
from flwr.app import Message, RecordDict

from federated import _flower_privates as flower
from federated._client_node import answer_all
from federated._owner import Owner
from federated._owner_node import OwnerNode
from federated._superlink import SuperLinkGrid
from federated.engine import FederatedEngine
from incr_core.engines import LocalEngine
from incr_core.errors import EngineError
from incr_core.job import Job
from tests.support.deployment import Deployment
from tests.support.federated_runs import finish
from tests.support.federations import COLUMNS, deployed, document
from tests.support.made_up import made_up
from tests.support.ports import free_port

pytestmark = pytest.mark.flower


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    found.superlink()
    yield found
    found.close()


def test_one_owner_on_a_superlink_equals_local_bit_for_bit(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that though the SuperLink once lets go of a question before all of it has come."""
    push, pushed = flower.RuntimeHttpClient.PushObject, count(1)

    def too_slowly(client: flower.RuntimeHttpClient, request: Any) -> Any:
        if next(pushed) == 20:
            request.session_id = "one that is over"
        return push(client, request)

    monkeypatch.setattr(flower.RuntimeHttpClient, "PushObject", too_slowly)
    pq.write_table(made_up(300), tmp_path / "rows.parquet")
    (tmp_path / "north.toml").write_text(
        tomli_w.dumps({"data": {"path": "rows.parquet", "settle": "0s"}, "columns": list(COLUMNS)})
    )
    stop, place = threading.Event(), str(tmp_path / "north.toml")

    def serve() -> None:
        with OwnerNode(deployment.address) as node:
            answer_all(node, place, stop)

    client = threading.Thread(target=serve)
    client.start()
    try:
        job = deployed("federated.min_clients=1", superlink=deployment.address)
        found = finish(job, tmp_path / "run", FederatedEngine)
    finally:
        stop.set()
        client.join()
        Owner.of(place).close()
    local = Job.from_document(document(path=str(tmp_path / "rows.parquet"))).resolved()
    assert found.sha256 == finish(local, tmp_path / "local", LocalEngine).sha256
    assert next(pushed) > 20


def test_a_question_that_never_comes_through_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def push(grid: flower.RunGrid, messages: list[Message]) -> list[str]:
        if any(message.metadata.dst_node_id == 2 for message in messages):
            raise flower.ObjectPushError("anchor", 7, "one that is over")
        return [f"to {message.metadata.dst_node_id}" for message in messages]

    monkeypatch.setattr(flower.RunGrid, "push_messages", push)
    grid = object.__new__(SuperLinkGrid)
    sent = grid.push_messages(Message(RecordDict(), node, "query.hello") for node in (1, 2, 3))
    assert sent == ["to 1", "", "to 3"]


def test_where_there_is_no_superlink_both_sides_say_so() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        EngineError, match=r"federated\.superlink: expected a SuperLink at .*, got ConnectError: .*start"
    ):
        SuperLinkGrid(address)
    with (
        pytest.raises(EngineError, match=r"--superlink .*: expected a SuperLink, got ConnectError"),
        OwnerNode(address),
    ):
        pass
