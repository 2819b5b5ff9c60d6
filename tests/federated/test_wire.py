"""Compressed updates: what they come to by hand, in every kind of run, from hostile clients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from federated._wire import Wire
from incr_core.registry import RunDirectory
from tests.support.coded_updates import RULES, learned
from tests.support.federated_runs import Result, events, finish, people
from tests.support.federations import deployed, each_row_once, simulated
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import AFTER, BEFORE, OwnersGrid

pytestmark = pytest.mark.flower

NARROW = {
    "float16": ["federated.wire=float16"],
    "int8": ["federated.wire=int8"],
    "sparse": ["federated.top_k=0.05"],
    "sparse int8": ["federated.top_k=0.05", "federated.wire=int8"],
    "without feedback": ["federated.top_k=0.05", "federated.error_feedback=false"],
}


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_an_update_by_hand() -> None:
    wire, anchor = Wire("float32", 0.25, True), {"w": torch.tensor([10.0, 20.0, 30.0, 40.0])}
    left: dict[str, Tensor] = {}
    record = wire.pack({"w": torch.tensor([10.5, 17.0, 32.0, 40.0])}, anchor, RULES, left)
    assert wire.unpack(record, anchor, RULES)["w"].tolist() == [10.0, 17.0, 30.0, 40.0]
    assert left["w"].tolist() == [0.5, 0.0, 2.0, 0.0]
    record = wire.pack({"w": torch.tensor([10.0, 20.0, 31.0, 42.0])}, anchor, RULES, left)
    assert wire.unpack(record, anchor, RULES)["w"].tolist() == [10.0, 20.0, 33.0, 40.0]
    assert left["w"].tolist() == [0.5, 0.0, 0.0, 2.0]


@pytest.mark.parametrize("wire", [Wire("int8", None, True), Wire("int8", 0.1, True), Wire("float16", 0.02, True)])
def test_nothing_is_lost_but_the_last_error(wire: Wire) -> None:
    total, sent, left = torch.zeros(1200), torch.zeros(1200), dict[str, Tensor]()
    for seed in range(30):
        anchor, weights = learned(seed)
        found = wire.unpack(wire.pack(weights, anchor, RULES, left), anchor, RULES)
        total += (weights["w"] - anchor["w"]).flatten()
        sent += (found["w"] - anchor["w"]).flatten()
    assert not torch.allclose(sent, total, atol=1e-4)
    torch.testing.assert_close(sent + left["w"], total, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wire", ["float32", "float16", "int8"])
def test_what_does_not_merge_by_its_mean_keeps_its_bits(wire: str) -> None:
    anchor, weights = learned()
    found = Wire(wire, 0.1, True).unpack(Wire(wire, 0.1, True).pack(weights, anchor, RULES, {}), anchor, RULES)
    assert list(found) == list(anchor)
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        name: (value.dtype, value.shape) for name, value in anchor.items()
    }
    assert found["seen"].equal(weights["seen"])
    assert found["running"].equal(weights["running"])
    assert not found["w"].equal(weights["w"])


def test_an_update_that_is_not_finite_leaves_what_is_unsent_as_it_is() -> None:
    wire, left = Wire("int8", None, True), dict[str, Tensor]()
    anchor, weights = learned()
    wire.pack(weights, anchor, RULES, left)
    before = {name: value.clone() for name, value in left.items()}
    weights["w"][3, 4] = torch.nan
    found = wire.unpack(wire.pack(weights, anchor, RULES, left), anchor, RULES)
    assert not found["w"].isfinite().all()
    assert all(left[name].equal(value) for name, value in before.items())


# -- runs --------------------------------------------------------------------------------------------------------------


def run(table: Path, folder: Path, *settings: str, stop_after: int | None = None, **habits: object) -> Result:
    job = people(table, "federated.rounds=2", *settings)
    return finish(job, folder, on(InProcessGrid(3, **habits)), stop_after=stop_after)  # type: ignore[arg-type]


LONG = ("float16", "sparse")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.chaos] * (kind in LONG)) for kind in NARROW])
def test_a_run_is_resumed_bit_for_bit_and_repeats_on_any_workers(table: Path, tmp_path: Path, kind: str) -> None:
    """Laws 1 and 8: what is unsent is part of a client's state, between messages and between versions."""
    whole = run(table, tmp_path / "whole", *NARROW[kind])
    assert whole.sha256 != run(table, tmp_path / "float32").sha256
    assert run(table, tmp_path / "shuffled", *NARROW[kind], shuffle=3, workers=2).sha256 == whole.sha256
    assert run(table, tmp_path / "forgetful", *NARROW[kind], forgetful=True).sha256 == whole.sha256
    for stop in (2, 5):
        run(table, tmp_path / "parts", *NARROW[kind], stop_after=stop)
    assert run(table, tmp_path / "parts", *NARROW[kind]).sha256 == whole.sha256


@pytest.mark.parametrize(
    "settings",
    [
        ["strategy=[{name='ewc', strength=10.0}]"],
        ["strategy=[{name='scaffold'}]", "learner.optimizer='sgd'"],
        ["strategy=[{name='packnet', every=2, tasks=3}]"],
        ["federated.aggregation='krum'"],
        ["federated.fraction=0.4", "federated.personal=['layers.3']"],
    ],
    ids=lambda settings: settings[0],
)
def test_strategies_and_rules_go_together_with_it(table: Path, tmp_path: Path, settings: list[str]) -> None:
    whole = run(table, tmp_path / "whole", "federated.wire=int8", *settings)
    run(table, tmp_path / "parts", "federated.wire=int8", *settings, stop_after=3)
    assert run(table, tmp_path / "parts", "federated.wire=int8", *settings).sha256 == whole.sha256
    exact = run(table, tmp_path / "exact", *settings)
    assert whole.score == pytest.approx(exact.score, abs=0.02)


def test_feedback_is_part_of_the_next_update(table: Path, tmp_path: Path) -> None:
    kept = run(table, tmp_path / "kept", *NARROW["sparse"], "stream.every=600")
    dropped = run(table, tmp_path / "dropped", *NARROW["without feedback"], "stream.every=600")
    assert kept.sha256 != dropped.sha256


def test_clients_learned_as_one_batch_send_coded_updates_too(table: Path, tmp_path: Path) -> None:
    settings = ["federated.clients=blocks:3", "federated.batch_clients=2", "model.dropout=0.0", "strategy=[]"]
    one = run(table, tmp_path / "one", "federated.wire=int8", *settings)
    two = run(table, tmp_path / "two", "federated.wire=int8", *settings, workers=2)
    assert one.sha256 == two.sha256
    assert one.sha256 != run(table, tmp_path / "exact", *settings).sha256


def test_bytes_of_a_round_are_told_by_direction(table: Path, tmp_path: Path) -> None:
    up = {}
    for kind, settings in {"float32": [], **NARROW}.items():
        run(table, tmp_path / kind, *settings, "model.hidden=[512, 64]")
        made = RunDirectory.open(tmp_path / kind)
        last, clients = made.table("metrics").to_pylist()[-1], made.table("clients").to_pylist()
        mine = [row for row in clients if row["increment"] == last["increment"]]
        for column in ("bytes_down", "bytes_up"):
            assert sum(row[column] for row in mine) == last[column] > 0
        assert last["bytes_down"] + last["bytes_up"] == last["bytes_exchanged"]
        up[kind] = last["bytes_up"]
    assert 0.48 < up["float16"] / up["float32"] < 0.54
    assert 0.24 < up["int8"] / up["float32"] < 0.30
    assert up["sparse int8"] < up["sparse"] < 0.15 * up["float32"]


@pytest.mark.parametrize(
    "promise", ["privacy={epsilon=1000.0}", "client_privacy={epsilon=1000.0, unit='client', noise=0.5}"]
)
def test_noise_comes_before_and_clipping_after(table: Path, tmp_path: Path, promise: str) -> None:
    """The noise of a client is in what it codes; a server clips what it has decoded. Both are resumed exactly."""
    settings = [
        f"federated.{promise}",
        "federated.wire=int8",
        "features.ranges={height=[100.0, 250.0], weight=[0.0, 200.0]}",
    ]
    whole = run(table, tmp_path / "whole", *settings)
    run(table, tmp_path / "parts", *settings, stop_after=3)
    assert run(table, tmp_path / "parts", *settings).sha256 == whole.sha256


# -- owners ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgetful", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_owners_learn_the_model_of_the_simulation(
    grid: Callable[..., OwnersGrid], tmp_path: Path, forgetful: bool
) -> None:
    settings = ["federated.rounds=2", "federated.wire=int8", "federated.top_k=0.05", "federated.checks=false"]
    found = finish(deployed(*settings), tmp_path / "run", grid(forgetful=forgetful).engine)
    job = simulated(tmp_path, *settings).resolved()
    assert found.sha256 == finish(job, tmp_path / "simulated", on(InProcessGrid(3))).sha256
    each_row_once(tmp_path, tmp_path / "run")


def test_what_a_lost_answer_left_unsent_is_taken_back(grid: Callable[..., OwnersGrid], tmp_path: Path) -> None:
    """Lost on its way back, an update has changed what its client has left to send: it is made again from before."""
    found = {}
    for when in (BEFORE, AFTER):
        asked = 0

        def lost(message: Message, name: str, when: str = when) -> str | None:
            nonlocal asked
            asked += (message.metadata.message_type, name) == ("train.learn", "red")
            return when if asked == 3 and (message.metadata.message_type, name) == ("train.learn", "red") else None

        settings = ["federated.wire=int8", "federated.top_k=0.05", "federated.checks=false"]
        found[when] = finish(deployed(*settings), tmp_path / when, grid(lost=lost).engine).sha256
        assert ("client lost", "client red: no answer in time") in events(tmp_path / when)
    assert found[BEFORE] == found[AFTER]
