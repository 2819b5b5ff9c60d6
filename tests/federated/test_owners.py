"""Clients that own their rows, in this process: the model of the simulation, whatever befalls them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ConfigRecord, Message

from federated._arrival_checks import COUNTS
from federated._client_file import ClientFile
from federated._consent import Declined, offered
from federated._owner import Owner, describe
from federated._records import tell, told
from incr_core.errors import StorageError, WorkerLost
from incr_core.registry import RunDirectory
from incr_core.storage import model_sha256
from tests.support.federated_runs import Result, events, failing, finish
from tests.support.federations import OWNERS, all_rows, deployed, each_row_once, ledgers, simulated
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import AFTER, BEFORE, OwnersGrid
from tests.support.spoiling import SPOILT, spoiled_by

pytestmark = pytest.mark.flower


def in_simulation(tmp_path: Path, *settings: str) -> Result:
    job = simulated(tmp_path, *settings).resolved()
    return finish(job, tmp_path / "simulated", on(InProcessGrid(3)))


def test_owners_learn_the_model_of_the_simulation_bit_for_bit(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    found = finish(deployed(), tmp_path / "run", grid().engine)
    wanted = in_simulation(tmp_path)
    assert found.sha256 == wanted.sha256
    assert found.score == wanted.score
    assert found.increments == wanted.increments
    each_row_once(tmp_path, tmp_path / "run")


@pytest.mark.chaos
def test_every_message_may_meet_another_process(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    found = finish(deployed("federated.rounds=2"), tmp_path / "run", grid(forgetful=True).engine)
    assert found.sha256 == in_simulation(tmp_path, "federated.rounds=2").sha256
    each_row_once(tmp_path, tmp_path / "run")


# -- lost, late, back again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [pytest.param(BEFORE, marks=pytest.mark.chaos), AFTER])
@pytest.mark.parametrize("action", ["evaluate.receive", "train.learn"])
def test_what_a_lost_answer_was_about_is_done_again(
    grid: Callable[..., OwnersGrid], tmp_path: Path, action: str, when: str
) -> None:
    """The client has done it, or never heard of it: the server cannot know, and no row is lost or twice either way."""
    asked = 0

    def lost(message: Message, name: str) -> str | None:
        nonlocal asked
        asked += (message.metadata.message_type, name) == (action, "red")
        return when if asked == 2 and message.metadata.message_type == action and name == "red" else None

    found = finish(deployed(), tmp_path / "run", grid(lost=lost).engine)
    each_row_once(tmp_path, tmp_path / "run")
    told = events(tmp_path / "run")
    assert ("client lost", "client red: no answer in time") in told
    assert ("client returned", "client red") in told
    assert found.sha256 != in_simulation(tmp_path).sha256


def test_a_client_that_dies_comes_back_elsewhere_and_goes_on(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    learns = 0

    def lost(message: Message, name: str) -> str | None:
        nonlocal learns
        if (message.metadata.message_type, name) == ("train.learn", "green"):
            learns += 1
            if learns == 2:
                lent.dies("green")
                return BEFORE
        if (message.metadata.message_type, name) == ("evaluate.receive", "red") and "green" not in there():
            lent.joins(files[1])
        return None

    def there() -> set[str]:
        return {file.stem for file in lent.nodes.values()}

    lent = grid(lost=lost)
    finish(deployed("federated.min_clients=2"), tmp_path / "run", lent.engine)
    each_row_once(tmp_path, tmp_path / "run")


def test_who_comes_late_begins_at_its_own_beginning(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    def lost(message: Message, name: str) -> str | None:
        if (message.metadata.message_type, name) == ("train.learn", "red") and files[0] not in lent.nodes.values():
            lent.joins(files[0])
        return None

    lent = grid(lost=lost)
    lent.dies("blue")
    finish(deployed("federated.min_clients=2"), tmp_path / "run", lent.engine)
    each_row_once(tmp_path, tmp_path / "run")


def test_one_that_never_comes_holds_nobody_up(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    lent = grid()
    lent.dies("blue")
    finish(deployed("federated.min_clients=2"), tmp_path / "run", lent.engine)
    assert ledgers(tmp_path).keys() == {"green", "red"}
    assert "no node" not in str(events(tmp_path / "run"))


def test_too_few_clients_end_the_run_by_name(
    grid: Callable[..., OwnersGrid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federated._attendance.PATIENCE", 0.0)
    lent = grid()
    lent.dies("blue")
    engine = lent.engine(deployed(), tmp_path / "run")
    with pytest.raises(WorkerLost, match=r"federated.min_clients: expected 3 clients, got 0 after 0 s; start them"):
        engine.start(None)


def test_a_failure_ends_the_run_where_the_job_says_so(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    def lost(message: Message, name: str) -> str | None:
        return BEFORE if message.metadata.message_type == "train.learn" and name == "red" else None

    error = failing(deployed("federated.accept_failures=false"), tmp_path / "run", grid(lost=lost).engine)
    assert type(error) is WorkerLost
    assert str(error).startswith("client red: no answer in time; the run stands at its last commit")


def test_one_that_comes_with_nothing_for_ever_keeps_no_run_going(
    grid: Callable[..., OwnersGrid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the end of its rows red has another window, without rows, and another; the others have ended."""
    monkeypatch.setattr("federated._owners.MOST_EMPTY", 7)
    come: list[dict[str, Any]] = []

    def spoils(reply: Message, name: str) -> None:
        if reply.metadata.message_type != "evaluate.receive" or name != "red":
            return
        document = told(reply.content)
        if document["arrival"] is not None:
            come.append(document["arrival"])
        if document["coming"] is None:
            arrival = copy.deepcopy(come[-1]) | {"statistics": {}, "observed": {}, "probed": []}
            arrival["tick"]["time"] += len(come) * 10**10
            come.append(arrival)
            arrival |= dict.fromkeys(COUNTS, 0)
            document |= {"arrival": arrival, "coming": {"time": arrival["tick"]["time"] + 1, "warm": False}}
            reply.content.update(tell(document))

    found = finish(deployed(), tmp_path / "run", grid(spoils=spoils).engine)
    assert found.increments < 20
    assert any("7 increments in a row of which it told nothing" in what for _, what in events(tmp_path / "run"))


def test_a_client_cannot_bring_it_about_that_it_tells_the_first_weights(
    grid: Callable[..., OwnersGrid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by its name: one is drawn from all that are there, and whoever it is, it tells the same."""
    tellers, shas = list[str](), set[str]()

    def hears(message: Message, name: str) -> None:
        order = message.content.config_records.get("order")
        if message.metadata.message_type == "query.open" and order is not None and order["describe"]:
            tellers.append(name)

    for number in range(len(OWNERS)):

        def draw(members: Sequence[int], number: int = number) -> int:
            assert len(members) == len(OWNERS)
            return members[number]

        monkeypatch.setattr("secrets.choice", draw)
        with grid(lost=hears) as lent:
            engine = lent.engine(deployed(), tmp_path / f"run-{number}")
            engine.start(None)
            shas.add(model_sha256(engine.weights()))
    assert tellers == list(OWNERS)
    assert len(shas) == 1


# -- a server that ends ----------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_goes_on_from_its_last_commit(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    """Between two commits: what clients have learned since then is taken back, and learned again, to the same bits."""

    class Killed(BaseException):
        pass

    count = 0

    def lost(message: Message, name: str) -> str | None:
        nonlocal count
        count += (message.metadata.message_type, name) == ("train.learn", "red")
        if count == 3 and message.metadata.message_type == "train.learn" and name == "red":
            count += 1
            raise Killed
        return None

    lent = grid(lost=lost)
    job = deployed("publish.every=2")
    with pytest.raises(Killed):
        finish(job, tmp_path / "run", lent.engine)
    found = finish(job, tmp_path / "run", lent.engine)
    assert found.sha256 == in_simulation(tmp_path, "publish.every=2").sha256
    each_row_once(tmp_path, tmp_path / "run")


def test_more_rows_are_learned_by_the_same_command(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    job, lent = deployed(), grid()
    finish(job, tmp_path / "run", lent.engine)
    table = pq.read_table(tmp_path / "red" / "rows" / "1.parquet")
    later = table.set_column(0, "at", [[at.as_py().replace(year=2021) for at in table["at"]]])
    pq.write_table(later.slice(0, 50).cast(table.schema), tmp_path / "red" / "rows" / "2.parquet")
    finish(job, tmp_path / "run", lent.engine)
    each_row_once(tmp_path, tmp_path / "run")


# -- nobody has to be believed ---------------------------------------------------------------------------------------


def test_who_lacks_a_column_is_told_which_and_the_others_go_on(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    files[2].write_text(files[2].read_text().replace('weight = "weight"\n', ""))
    finish(deployed("federated.min_clients=2"), tmp_path / "run", grid().engine)
    assert ledgers(tmp_path).keys() == {"blue", "green"}
    wanted = "client red: expected a job that its file allows, got one that asks for the column weight; "
    assert any(kind == "client refused" and what.startswith(wanted) for kind, what in events(tmp_path / "run"))


@pytest.mark.parametrize("every", ["4h", "file"])
def test_nothing_of_a_row_is_told(grid: Callable[..., OwnersGrid], tmp_path: Path, every: str) -> None:
    heard: list[str] = []

    def listens(reply: Message, name: str) -> None:
        for record in reply.content.array_records.values():
            heard.extend(bytes(array.data).decode("latin1") for array in record.values())
        heard.extend(str(value) for record in reply.content.config_records.values() for value in record.values())

    finish(deployed(f"stream.every={every}"), tmp_path / "run", grid(spoils=listens).engine)
    text = "".join(heard)
    assert "labelled" in text
    for secret in (str(tmp_path), ".parquet", "their_", "inputs", "targets"):
        assert secret not in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weights: next(iter(weights.values())).fill_(torch.nan), "has values that are not finite"),
        (lambda weights: weights.pop(next(iter(weights))), "weights by other names"),
        (lambda weights: weights[SPOILT].add_(100.0), "weights moved by "),
    ],
    ids=["nan", "names", "norm"],
)
def test_a_bad_update_is_left_out_and_costs_the_others_nothing(
    grid: Callable[..., OwnersGrid], tmp_path: Path, change: Callable[..., None], why: str
) -> None:
    finish(deployed("federated.min_clients=2"), tmp_path / "run", grid(spoils=spoiled_by(change)).engine)
    weights, _ = RunDirectory.open(tmp_path / "run").load()
    assert all(bool(value.isfinite().all()) for value in weights.values())
    learned = pq.read_table(tmp_path / "run" / "ledger")["participant"].unique().to_pylist()
    assert sorted(learned) == ["blue", "green"]
    told = [what for kind, what in events(tmp_path / "run") if kind == "client refused"]
    assert len(told) == 3, "three failures in a row, and it is asked no more"
    assert all(what.startswith("client red: ") and why in what for what in told)


def test_an_update_of_any_norm_is_taken_where_the_job_says_so(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    spoilt = spoiled_by(lambda weights: weights[SPOILT].add_(100.0))
    finish(deployed("federated.checks=false"), tmp_path / "run", grid(spoils=spoilt).engine)
    assert not [what for kind, what in events(tmp_path / "run") if kind == "client refused"]
    weights, _ = RunDirectory.open(tmp_path / "run").load()
    assert weights[SPOILT].abs().max() > 10.0


def test_a_name_belongs_to_who_said_it_first(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    thief = tmp_path / "thief.toml"
    thief.write_text('name = "red"\n' + files[2].read_text().replace('"rows"', '"red/rows"'))
    lent = grid()
    lent.joins(thief)
    finish(deployed(), tmp_path / "run", lent.engine)
    assert len({name for _, name in lent.sent if name in ("red", "thief")}) == 2
    assert len({name for what, name in lent.sent if what == "query.open" and name in ("red", "thief")}) == 1
    assert "the name red of another client" in str(events(tmp_path / "run"))


def test_bad_rows_and_duplicates_have_numbers_of_their_own(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    """Each number once in the server's tables, and the owner's ledger says which row of which file it is."""
    for file in files:
        file.write_text(file.read_text() + 'id = "id"\n\n[privacy]\nmin_rows = 1\n')
    for path in (tmp_path / "red" / "rows", tmp_path / "blue" / "rows", tmp_path / "green" / "rows"):
        for part in path.iterdir():
            table = pq.read_table(part)
            rows = range(len(table))
            height = "their_height" if path.parent.name == "green" else "height"
            heights = [
                math.nan if row % 9 == 4 else value for row, value in zip(rows, table[height].to_pylist(), strict=True)
            ]
            table = table.set_column(table.column_names.index(height), height, pa.array(heights))
            pq.write_table(table.append_column("id", pa.array([f"{part.stem}-{row // 5}" for row in rows])), part)
    job = deployed("stream.key='id'", "features.on_bad_row='quarantine'")
    finish(job, tmp_path / "run", grid().engine)
    numbers: dict[str, list[int]] = {}
    for name in ("ledger", "duplicates"):
        for entry in pq.read_table(tmp_path / "run" / name).to_pylist():
            for part in entry["ranges"]:
                numbers.setdefault(entry["fragment"], []).extend(range(part["start"], part["stop"]))
    for entry in pq.read_table(tmp_path / "run" / "quarantine").to_pylist():
        numbers.setdefault(entry["fragment"], []).append(entry["offset"])
    for owner, every in all_rows(tmp_path).items():
        assert sorted(numbers[owner]) == list(range(len(every)))
        (found,) = describe(ClientFile.read(tmp_path / owner / f"{owner}.toml"))
        assert found["learned"] + found["duplicate"] + found["quarantined"] == len(every)
        assert min(found["learned"], found["duplicate"], found["quarantined"]) > 0


def test_a_run_that_was_committed_twice_is_not_begun_anew(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    """A server that orders it would have the rows learned twice, and the owner's ledger gone."""
    lent = grid()
    finish(deployed(), tmp_path / "run", lent.engine)
    lent.close()
    owner = Owner(ClientFile.read(files[0]), lambda what: None)
    (place,) = (owner.file.folder / "runs").iterdir()
    kept = (place / "ledger.jsonl").read_bytes()
    order = ConfigRecord({"run": place.name, "generation": -1, "job": offered(deployed()), "index": 0})
    try:
        with pytest.raises(Declined, match=f"expected to go on with run {place.name}, got the order to begin it anew"):
            owner.open(order)
    finally:
        owner.close()
    assert (place / "ledger.jsonl").read_bytes() == kept


def test_a_client_that_may_keep_too_little_says_so(files: list[Path]) -> None:
    file = ClientFile.read(files[0])
    file.allow.disk = 1e-6
    owner = Owner(file, lambda what: None)
    order = ConfigRecord({"run": "0" * 16, "generation": -1, "job": offered(deployed()), "index": 0})
    try:
        with pytest.raises(StorageError, match=r"client blue: expected its state within allow\.disk = 1e-06 GB, got "):
            owner.open(order)
    finally:
        owner.close()


def test_an_owner_sees_what_its_runs_have_had(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    finish(deployed(), tmp_path / "run", grid().engine)
    (found,) = describe(ClientFile.read(files[0]))
    assert found["job"] == "people"
    assert found["learned"] == len(all_rows(tmp_path)["blue"])


def test_owners_judge_versions_and_tell_sums_alone(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    drift = "drift=[{detector='page_hinkley', watch='loss'}]"  # its probes and the gate's are told beside one another
    finish(deployed("publish.gate=true", drift), tmp_path / "run", grid().engine)
    found = [version["gate"] for version in RunDirectory.open(tmp_path / "run").versions()]
    assert found[-1]["rows"] > 100
    assert all(one["promoted"] for one in found)
    assert not [what for kind, what in events(tmp_path / "run") if kind in ("client refused", "client lost")]


def test_owners_hold_rows_back_and_learn_them_in_the_end(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    finish(deployed("publish.gate=true", "publish.holdout=0.2"), tmp_path / "run", grid().engine)
    found = [version["gate"] for version in RunDirectory.open(tmp_path / "run").versions()]
    assert any(one["holdout"]["rows"] >= 10 for one in found if "holdout" in one)
    assert not [what for kind, what in events(tmp_path / "run") if kind in ("client refused", "client lost")]
    left = {owner: len(rows) - len(ledgers(tmp_path)[owner]) for owner, rows in all_rows(tmp_path).items()}
    assert all(0 <= rows < 10 for rows in left.values()), "but fewer than an owner tells of"
