"""Weights of a client's own: they stay, they learn, and nobody else sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import Message

from federated._records import unpack
from incr_core.engines import LocalEngine
from incr_core.errors import JobError, VersionError
from incr_core.registry import RunDirectory, state_folder
from incr_core.runs import Version
from incr_core.storage import checkpoint
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

HEAD = "model.layers.3"
PERSONAL = 'federated.personal=["layers.3"]'


def own(run: Path, client: str) -> dict[str, torch.Tensor]:
    version = RunDirectory.open(run).latest()
    found: dict[str, torch.Tensor] = checkpoint.load(state_folder(run, client, version or 0))[0]["personal"]
    return found


def test_one_client_is_the_local_run_bit_for_bit(table: Path, tmp_path: Path) -> None:
    job = people(table, PERSONAL, "federated.clients=blocks:1", "federated.rounds=2", "learner.epochs=1")
    local = finish(people(table, "federated.clients=blocks:1"), tmp_path / "local", LocalEngine)
    alone = finish(people(table, PERSONAL, "federated.clients=blocks:1"), tmp_path / "alone", on(InProcessGrid(1)))
    assert alone.score == local.score
    expected, _ = RunDirectory.open(tmp_path / "local").load()
    found, manifest = RunDirectory.open(tmp_path / "alone").load()
    mine = own(tmp_path / "alone", "block-0")
    assert sorted(manifest["personal"]) == sorted(mine) == [f"{HEAD}.bias", f"{HEAD}.weight"]
    for name, value in expected.items():
        assert torch.equal({**found, **mine}[name], value), name
        assert torch.equal(found[name], value) == (name not in mine), name
    assert job.federated.personal == ["layers.3"]


def test_each_client_has_its_own_through_kills(table: Path, tmp_path: Path) -> None:
    job = people(table, PERSONAL, "federated.rounds=2", "federated.fraction=0.6")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3, forgetful=True)))
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3))) == whole
    heads = [own(tmp_path / "whole", f"colour={colour}") for colour in ("blue", "green", "red")]
    for name in heads[0]:
        assert not torch.equal(heads[0][name], heads[1][name])
        assert not torch.equal(heads[1][name], heads[2][name])
    for colour, head in zip(("blue", "green", "red"), heads, strict=True):
        again = own(tmp_path / "parts", f"colour={colour}")
        assert all(torch.equal(again[name], value) for name, value in head.items())


def test_owners_learn_what_the_simulation_does_and_tell_nothing_of_it(
    grid: Callable[..., OwnersGrid], tmp_path: Path
) -> None:
    told = set[str]()

    def listens(reply: Message, name: str) -> None:
        if "weights" in reply.content:
            told.update(unpack(reply.content.array_records["weights"]))

    found = finish(deployed("federated.min_clients=3", PERSONAL), tmp_path / "run", grid(spoils=listens).engine)
    assert told
    assert not {name for name in told if name.startswith(HEAD)}
    assert found.score > 0.6


def test_a_client_predicts_with_its_own(table: Path, tmp_path: Path) -> None:
    finish(people(table, PERSONAL), tmp_path / "run", on(InProcessGrid(3)))
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(table).slice(0, 50), rows)
    with pytest.raises(VersionError, match=r"expected a client that has its own weights, .* name one \(of colour=blue"):
        Version.load(tmp_path / "run")
    answers: list[pa.Table] = [
        Version.load(tmp_path / "run", client=f"colour={colour}").predict(rows) for colour in ("blue", "red")
    ]
    assert not answers[0].equals(answers[1])
    finish(people(table), tmp_path / "common", on(InProcessGrid(3)))
    with pytest.raises(VersionError, match="where none stay with each client; name none"):
        Version.load(tmp_path / "common", client="colour=blue")


def test_patterns_mean_weights_that_may_be_ones_own(table: Path, tmp_path: Path) -> None:
    for pattern in ("hed", "objective.*"):
        with pytest.raises(JobError, match=r"personal: expected patterns that mean weights of the model, got"):
            finish(people(table, f'federated.personal=["{pattern}"]'), tmp_path / "run", on(InProcessGrid(3)))
