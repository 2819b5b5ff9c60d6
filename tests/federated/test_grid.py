"""The grids with real processes: our own, and Flower's simulation, which must come to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from federated._grid import RayGrid
from federated.client_app import app as incr_app
from federated.engine import FederatedEngine
from incr_core.errors import BadRows, WorkerLost
from incr_core.job import Job
from tests.support.federated_runs import failing, finish, people, spoiled
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.toy_app import app as toy

pytestmark = [pytest.mark.flower, pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def grid() -> Iterator[RayGrid]:
    grid = RayGrid(toy, 3, [0, 1, 0])
    yield grid
    grid.close()


def questions(grid: RayGrid, action: str, content: RecordDict | None = None) -> list[Message]:
    return [Message(content or RecordDict(), node, action) for node in grid.get_node_ids()]


def test_flowers_own_fedavg_runs_unmodified(grid: RayGrid) -> None:
    start = ArrayRecord([np.zeros(3, np.float32), np.full((2, 2), 5.0, np.float32)])
    result = FedAvg(fraction_train=1.0).start(grid, start, num_rounds=3)
    step = (1 * 1 + 2 * 2 + 3 * 3) / 6  # client i adds i to each weight, and counts for i rows
    first, second = result.arrays.to_numpy_ndarrays()
    np.testing.assert_allclose(first, 3 * step, rtol=1e-6)
    np.testing.assert_allclose(second, 5.0 + 3 * step, rtol=1e-6)


def test_a_client_keeps_its_context_and_meets_the_same_process(grid: RayGrid) -> None:
    arrays = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    seen = []
    for _ in range(3):
        replies = grid.send_and_receive(questions(grid, "train", arrays))
        by_node = {reply.metadata.src_node_id: reply.content.metric_records["metrics"] for reply in replies}
        seen.append([(by_node[node]["calls"], by_node[node]["process"]) for node in grid.get_node_ids()])
    assert [[calls for calls, _ in clients] for clients in seen] == [[1] * 3, [2] * 3, [3] * 3]
    first, second, third = (process for _, process in seen[0])
    assert first == third != second
    assert all([process for _, process in clients] == [first, second, third] for clients in seen)


def test_replies_may_be_pulled_when_they_are_ready(grid: RayGrid) -> None:
    sent = grid.push_messages(questions(grid, "evaluate"))
    replies: list[Message] = []
    while len(replies) < 3:
        replies += grid.pull_messages(sent)
    assert sorted(reply.metadata.reply_to_message_id for reply in replies) == sorted(sent)
    assert grid.pull_messages(sent) == []


def test_an_exception_is_an_error_reply_and_the_others_go_on(grid: RayGrid) -> None:
    mixed = [Message(RecordDict(), 1, "query.fail"), Message(RecordDict(), 2, "evaluate")]
    failed, fine = sorted(grid.send_and_receive(mixed), key=lambda reply: reply.metadata.src_node_id)
    assert failed.error.reason == "ValueError: scripted"
    assert fine.has_content()


def test_a_dead_worker_answers_with_errors_ever_after(grid: RayGrid) -> None:
    grid.send_and_receive([Message(RecordDict(), 1, "query.die")])
    for _ in range(2):
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(questions(grid, "evaluate"))}
        assert [replies[node].has_error() for node in (1, 2, 3)] == [True, False, True]
        assert "its worker is gone" in str(replies[1].error.reason)


@pytest.mark.chaos
def test_a_dead_worker_stops_the_run_and_it_goes_on_to_the_same_weights(table: Path, tmp_path: Path) -> None:
    job = people(table, "stream.every=500")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    killed = 0

    class Mortal(RayGrid):
        def push_messages(self, messages):  # type: ignore[no-untyped-def]
            nonlocal killed
            killed += 1
            if killed == 8:
                ray.kill(self._workers[1])
            return super().push_messages(messages)

    grid = Mortal(incr_app, 3, [0, 1, 0])
    try:
        error = failing(job, tmp_path / "run", lambda job, folder: FederatedEngine(job, folder, grid))
    finally:
        grid.close()
    assert type(error) is WorkerLost
    assert str(error).startswith("client colour=green: lost (its worker is gone: ")
    assert finish(job, tmp_path / "run", FederatedEngine) == whole


def test_a_clients_own_error_crosses_processes(tmp_path: Path) -> None:
    error = failing(people(spoiled(tmp_path), "federated.workers=1"), tmp_path / "run", FederatedEngine)
    assert type(error) is BadRows
    assert '("n/a")' in str(error)


def test_any_number_of_workers_gives_the_same_bits(table: Path, tmp_path: Path) -> None:
    job = people(table, "federated.workers=2", "stream.every=500")  # two clients share one
    assert finish(job, tmp_path / "two", FederatedEngine) == finish(job, tmp_path / "none", on(InProcessGrid(3)))


@pytest.mark.last  # when its simulation ends, Flower stops whatever Ray this process is connected to
@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")  # Ray waits for none
def test_flowers_simulation_comes_to_the_same_bits(table: Path, tmp_path: Path) -> None:
    job: Job = people(table, "federated.rounds=2", "stream.every=600")
    ours = finish(job, tmp_path / "ours", on(InProcessGrid(3)))
    theirs = finish(job.with_settings(["federated.backend=flower"]), tmp_path / "theirs", FederatedEngine)
    assert theirs == ours
