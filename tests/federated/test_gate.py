"""The gate over clients: sums leave them, and say what they say of all rows in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core.commands.audit import audit
from incr_core.engines import LocalEngine
from incr_core.loop import Loop
from incr_core.registry import RunDirectory
from incr_core.runs import Summary, change
from tests.support.federated_runs import finish
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.poisoned import BY_DAY, flipped, job, stream, timed

pytestmark = pytest.mark.flower


def test_one_client_is_judged_as_all_rows_in_one_process_and_two_hold_the_same_back(tmp_path: Path) -> None:
    days = stream(flipped, 22, 22)
    finish(job(tmp_path / "days", days), tmp_path / "local", LocalEngine)
    one, two = (f'federated.clients="blocks:{clients}"' for clients in (1, 2))
    finish(job(tmp_path / "days", days, one), tmp_path / "one", on(InProcessGrid(1)))
    finish(job(tmp_path / "days", days, two), tmp_path / "two", on(InProcessGrid(2)))
    local, alone, both = (RunDirectory.open(tmp_path / name).versions() for name in ("local", "one", "two"))
    assert [version["gate"] for version in alone] == [version["gate"] for version in local]
    assert [version["version"] for version in both if not version["gate"]["promoted"]] == [21, 22]
    assert both[-1]["gate"]["rows"] > local[-1]["gate"]["rows"]


def test_law_3_rows_are_held_back_by_one_client_as_in_one_process(tmp_path: Path) -> None:
    days = stream(flipped, 22, 24)
    runs = {"local": LocalEngine, "one": on(InProcessGrid(1)), "two": on(InProcessGrid(2))}
    found = {
        name: finish(
            job(
                tmp_path / "days",
                days,
                "publish.holdout=0.2",
                f'federated.clients="blocks:{2 if name == "two" else 1}"',
            ),
            tmp_path / name,
            engine,
        )
        for name, engine in runs.items()
    }
    gates = {name: [one["gate"] for one in RunDirectory.open(tmp_path / name).versions()] for name in runs}
    assert found["one"].sha256 == found["local"].sha256
    assert gates["one"] == gates["local"]
    assert found["one"].learned == found["two"].learned == found["local"].learned
    assert [one["holdout"]["rows"] for one in gates["two"][1:-1]] == [
        one["holdout"]["rows"] for one in gates["one"][1:-1]
    ]
    assert [one["promoted"] for one in gates["two"]][:22] == [True] * 20 + [False] * 2
    assert not audit(tmp_path / "two").violations


def test_the_summary_of_a_run_counts_the_bytes_of_judging_apart(tmp_path: Path) -> None:
    judged = job(tmp_path / "days", stream(flipped, 0, 3), 'federated.clients="blocks:2"')
    with RunDirectory.create(tmp_path / "run", judged.toml(), judged.fingerprint()) as directory:
        engine = on(InProcessGrid(2))(judged, tmp_path / "run")
        try:
            Loop(judged, engine, directory).run_to_summary()
        finally:
            engine.close()
    summary = Summary.read(tmp_path / "run")
    exchanged = RunDirectory.open(tmp_path / "run").table("metrics")["bytes_exchanged"].to_pylist()
    assert summary.bytes_exchanged == sum(exchanged)
    assert (summary.bytes_judging or 0) > 0


def test_clients_go_back_with_the_server(tmp_path: Path) -> None:
    days = stream(flipped, 0, 5)
    settings = ['federated.clients="blocks:2"', "publish.states=4"]
    out = tmp_path / "run"
    whole = finish(job(tmp_path / "days", days, *settings), out, on(InProcessGrid(2)))
    change(out, "rollback", 2)
    again = finish(job(tmp_path / "days", days, *settings), out, on(InProcessGrid(2)))
    assert again.sha256 == whole.sha256
    assert RunDirectory.open(out).table("ledger")["version"].to_pylist()[::2] == [1, 2, 7, 8, 9]


def test_clients_leave_what_is_set_aside_out_of_their_rates(tmp_path: Path) -> None:
    days = timed(stream(flipped, 21, 23))
    settings = ['federated.clients="blocks:2"', "publish.on_hold=rollback", *BY_DAY]
    run = finish(job(tmp_path / "days", days, *settings), tmp_path / "run", on(InProcessGrid(2)))
    twin = finish(
        job(tmp_path / "twin days", days[:20] + days[21:], *settings), tmp_path / "twin", on(InProcessGrid(2))
    )
    assert RunDirectory.open(tmp_path / "run").table("events")["kind"].to_pylist() == ["held", "set aside"]
    assert run.sha256 == twin.sha256
