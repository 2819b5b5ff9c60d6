"""The engine over clients in this process: who learns what, what is lost, and what is said about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from flwr.app import Context, Message, RecordDict

from federated import _resident_clients as residents
from federated._client_failures import REMEDY
from federated.engine import FederatedEngine
from federated.server_app import app as server_app
from incr_core.engines import LocalEngine
from incr_core.errors import BadRows, CheckpointError, EngineError, JobError, WorkerLost
from incr_core.job import Job
from tests.support.decoding import count_decoded
from tests.support.federated_runs import failing, finish, people, spoiled
from tests.support.heavy_rows import job as heavy_job
from tests.support.heavy_rows import table as heavy_table
from tests.support.heavy_rows import written
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.made_up import made_up

pytestmark = pytest.mark.flower


def test_clients_are_the_values_of_a_column(table: Path, tmp_path: Path) -> None:
    engine = FederatedEngine(people(table), tmp_path)
    assert engine.participants == ["colour=blue", "colour=green", "colour=red"]


@pytest.mark.parametrize(("clients", "names"), [("blocks:2", ["block-0", "block-1"]), ("hash:at:1", ["at-0"])])
def test_clients_may_be_dealt_rows(table: Path, tmp_path: Path, clients: str, names: list[str]) -> None:
    assert FederatedEngine(people(table, f'federated.clients="{clients}"'), tmp_path).participants == names


@pytest.mark.parametrize("clients", ["blocks:0", "blocks:two", "hash:colour", "a:b:c:d", ""])
def test_other_wishes_for_clients_are_refused(table: Path, tmp_path: Path, clients: str) -> None:
    with pytest.raises(JobError, match=r'federated.clients: expected a column, "hash:COLUMN:N" or "blocks:N"'):
        FederatedEngine(people(table, f'federated.clients="{clients}"'), tmp_path)


def test_rows_that_are_remembered_stay_with_their_client(table: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r'cluster.memory_scope: expected "own" with --on federated, whose clients keep'):
        FederatedEngine(people(table, "cluster.memory_scope=all"), tmp_path)


@pytest.mark.parametrize(("fraction", "rounds"), [(0.3, 1), (0.6, 2)])
def test_with_a_fraction_of_clients_every_row_is_learned_once(
    table: Path, tmp_path: Path, fraction: float, rounds: int
) -> None:
    job = people(table, f"federated.fraction={fraction}", f"federated.rounds={rounds}")
    grid = InProcessGrid(3)
    result = finish(job, tmp_path / "run", on(grid))
    assert result.learned == list(range(2000))
    asked = [node for action, node in grid.sent if action == "train.learn"]
    assert len(asked) < 3 * rounds * result.increments
    if fraction == 0.3:
        assert result.increments > 8, "rows that waited at the stream's end need increments of their own"


def test_a_client_that_waits_keeps_its_rows_through_a_resume(table: Path, tmp_path: Path) -> None:
    job = people(table, "federated.fraction=0.3")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3))) == whole


def test_clients_may_meet_another_process_with_every_message(table: Path, tmp_path: Path) -> None:
    job = people(table, "federated.rounds=2", "federated.fraction=0.6")
    at_home = finish(job, tmp_path / "home", on(InProcessGrid(3)))
    assert finish(job, tmp_path / "away", on(InProcessGrid(3, forgetful=True))) == at_home


def test_rows_stay_with_their_owners(table: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    class Watching(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
            replies = super().send_and_receive(messages, timeout=timeout)
            for reply in replies:
                for record in reply.content.array_records.values():
                    seen.append(bytes(record["layout"].data).decode())
            return replies

    finish(people(table), tmp_path / "run", on(Watching(3)))
    assert seen
    assert not any("inputs" in layout or "targets" in layout for layout in seen)


def grown(folder: Path) -> int:
    """Add a file to the source in which a client is new whose name sorts between the old ones; returns its rows."""
    table = made_up(600, seed=1)
    table = table.filter(pc.not_equal(table["colour"], "red"))
    pq.write_table(table, folder / "2.parquet")
    return int(pc.sum(pc.equal(table["colour"], "green")).as_py())


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_client_that_is_new_in_a_grown_source_joins_the_others(tmp_path: Path, forgetful: bool) -> None:
    source, run, parts = tmp_path / "source", tmp_path / "run", tmp_path / "parts"
    source.mkdir()
    table = made_up(900)
    pq.write_table(table.filter(pc.not_equal(table["colour"], "green")), source / "1.parquet")
    job = people(source)
    engines: list[FederatedEngine] = []

    def make(job: Job, folder: Path) -> FederatedEngine:
        engines.append(FederatedEngine(job, folder, InProcessGrid(3, forgetful=forgetful)))
        return engines[-1]

    before = finish(job, run, make)
    shutil.copytree(run, parts)
    green = grown(source)
    after = finish(job, run, make)
    assert engines[-1].participants == ["colour=blue", "colour=red", "colour=green"]
    rows = sum(pq.read_metadata(path).num_rows for path in source.iterdir())
    assert len(after.learned) == len(before.learned) + pq.read_metadata(source / "2.parquet").num_rows == rows
    ledger = pq.read_table(run / "ledger").to_pylist()
    theirs = [entry for entry in ledger if entry["participant"] == "colour=green"]
    assert sum(part["stop"] - part["start"] for entry in theirs for part in entry["ranges"]) == green
    # And it is a client like any other from then on.
    finish(job, parts, make, stop_after=before.increments + 2)
    assert finish(job, parts, make) == after


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_clients_own_error_keeps_its_type_and_message(tmp_path: Path) -> None:
    error = failing(people(spoiled(tmp_path)), tmp_path / "run", on(InProcessGrid(3)))
    assert type(error) is BadRows
    assert "stream.features.height: expected float" in str(error)
    assert '("n/a")' in str(error)


def test_quarantined_rows_are_told_without_their_values(tmp_path: Path) -> None:
    job = people(spoiled(tmp_path), "features.on_bad_row=quarantine", "stream.warm_start=100")
    result = finish(job, tmp_path / "run", on(InProcessGrid(3)))
    refused = pq.read_table(tmp_path / "run/quarantine")
    assert len(refused) + len(result.learned) == 600
    assert set(refused["value"].to_pylist()) == {"(kept by its owner)"}
    assert set(refused["column"].to_pylist()) == {"height"}


def test_any_other_exception_names_the_client_and_what_to_do(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incr_core.learner import Learner

    def fail(self: Learner, steps: int | None = None) -> None:
        raise ZeroDivisionError("scripted")

    monkeypatch.setattr(Learner, "advance", fail)
    error = failing(people(table), tmp_path / "run", on(InProcessGrid(3)))
    assert type(error) is WorkerLost
    assert "client colour=blue: ZeroDivisionError: scripted at " in str(error)
    assert "the run stands at its last commit" in str(error)


def test_a_client_that_does_not_answer_stops_the_run(table: Path, tmp_path: Path) -> None:
    def lost(message: Message) -> bool:
        return message.metadata.message_type == "train.learn" and message.metadata.dst_node_id == 12

    error = failing(people(table), tmp_path / "run", on(InProcessGrid(3, lose=lost)))
    assert type(error) is WorkerLost
    assert str(error).startswith("client colour=green: lost (no answer); the run stands at its last commit")


def test_a_run_goes_on_after_a_lost_client_to_the_same_weights(table: Path, tmp_path: Path) -> None:
    asked = 0

    def lost(message: Message) -> bool:
        nonlocal asked
        asked += message.metadata.message_type == "train.learn"
        return asked == 14

    job = people(table)
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3)))
    assert type(failing(job, tmp_path / "run", on(InProcessGrid(3, lose=lost)))) is WorkerLost
    assert finish(job, tmp_path / "run", on(InProcessGrid(3))) == whole


def test_missing_nodes_are_named(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated._simulated_nodes.PATIENCE", 0.1)
    error = failing(people(table), tmp_path / "run", on(InProcessGrid(2)))
    assert "client colour=red: no node has answered for it" in str(error)


def test_a_client_whose_context_is_gone_says_so(table: Path, tmp_path: Path) -> None:
    grid = InProcessGrid(3)
    engine = FederatedEngine(people(table), tmp_path, grid)
    engine.start(None)
    grid._worker._contexts.clear()
    with pytest.raises(CheckpointError, match="has lost its state since the run began"):
        engine.receive()


def test_state_of_another_generation_is_refused(table: Path, tmp_path: Path) -> None:
    grid = InProcessGrid(3, forgetful=True)
    engine = FederatedEngine(people(table), tmp_path, grid)
    engine.start(None)
    for context in grid._worker._contexts.values():
        context.state.config_records["client"]["generation"] = 5
    with pytest.raises(CheckpointError, match="expected its state after message 5, found that after message 1"):
        engine.receive()


def test_the_engine_may_be_closed_twice_and_before_it_starts(table: Path, tmp_path: Path) -> None:
    engine = FederatedEngine(people(table), tmp_path)
    engine.close()
    engine.close()


# -- the ServerApp ---------------------------------------------------------------------------------------------------


def serve(**config: str) -> None:
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), dict(config)))


def test_the_server_app_runs_a_job_file_like_the_command_line(table: Path, tmp_path: Path) -> None:
    job = people(table)
    (tmp_path / "job.toml").write_text(job.toml())
    serve(job=str(tmp_path / "job.toml"), out=str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["finished"]
    assert summary["engine"] == "federated"
    assert summary["model_sha256"] == finish(job, tmp_path / "other", on(InProcessGrid(3))).sha256


def test_the_server_app_asks_for_a_job() -> None:
    with pytest.raises(JobError, match="expected the path of a job, got none; pass --run-config"):
        serve()


@pytest.mark.parametrize("travels", [False, True])
def test_an_increment_that_diverges_is_let_go_by_those_who_learned_it(tmp_path: Path, travels: bool) -> None:
    path = written(tmp_path / "data", heavy_table((3, 7)))
    wanted = heavy_job(path, "federated.clients=blocks:3", "federated.fraction=0.5", "publish.every=3")
    finish(wanted, tmp_path / "run", on(InProcessGrid(3, forgetful=travels)))
    learned = [row for pairs in ledger_ranges(tmp_path / "run") for row in range(*pairs)]
    refused = pq.read_table(tmp_path / "run" / "quarantine")["offset"].to_pylist()
    assert sorted(learned + refused) == list(range(480))
    # A client that was not drawn in increment 3 offers its heavy rows with the next one.
    assert {row // 40 for row in refused} >= {3, 7}
    assert len(refused) < 240


def test_one_client_lets_go_of_what_the_local_engine_does(tmp_path: Path) -> None:
    wanted = heavy_job(written(tmp_path / "data", heavy_table((3,))), "federated.clients=blocks:1", "publish.every=2")
    clients = finish(wanted, tmp_path / "clients", on(InProcessGrid(1)))
    assert clients.sha256 == finish(wanted, tmp_path / "local", LocalEngine).sha256


def ledger_ranges(folder: Path) -> list[tuple[int, int]]:
    lists = pq.read_table(folder / "ledger")["ranges"].to_pylist()
    return [(pair["start"], pair["stop"]) for pairs in lists for pair in pairs]


def test_a_grid_may_go_through_the_messages_twice(table: Path, tmp_path: Path) -> None:
    """As Flower's own does over HTTP: first to count them, then to send them."""

    class Twice(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            assert sum(1 for _ in messages) > 0, "messages_list must not be empty"
            return super().send_and_receive(messages, timeout=timeout)

    job = people(table, "stream.every=600")
    assert finish(job, tmp_path / "twice", on(Twice(3))) == finish(job, tmp_path / "once", on(InProcessGrid(3)))


@pytest.mark.parametrize("after", [0, 7])
def test_whatever_a_grid_raises_becomes_an_error_of_ours(table: Path, tmp_path: Path, after: int) -> None:
    class Unreachable(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            if self.sent and next(self._numbers) >= after:
                raise ConnectionResetError("the SuperLink hung up")
            return super().send_and_receive(messages, timeout=timeout)

    error = failing(people(table), tmp_path / "run", on(Unreachable(3)))
    doing = "asking clients to open" if after == 0 else "asking clients to receive"
    assert type(error) is EngineError
    assert str(error) == (
        "federated: expected Unreachable to carry messages, got ConnectionResetError: the SuperLink hung up while "
        f"{doing}; {REMEDY}"
    )


@pytest.mark.parametrize("clients", ["colour", "hash:colour:3", "blocks:3"])
def test_the_clients_of_a_process_decode_each_row_once_and_see_what_they_would_alone(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: str
) -> None:
    job = people(table, f'federated.clients="{clients}"').resolved()
    decoded = count_decoded(monkeypatch)
    together = finish(job, tmp_path / "together", on(InProcessGrid(3)))
    assert decoded["height"] == decoded["tall"] == 2000
    decoded.clear()
    monkeypatch.setattr(residents, "SharedReads", lambda: None)
    alone = finish(job, tmp_path / "alone", on(InProcessGrid(3)))
    assert decoded["height"] == decoded["tall"] == 3 * 2000
    assert alone.sha256 == together.sha256
    assert alone.learned == together.learned
