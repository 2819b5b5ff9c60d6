"""Ditto: a model of each client's own answers its rows, and the common one is learned as without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from incr_core.batch import Batch
from incr_core.errors import JobError
from incr_core.learner import Learner
from incr_core.objectives import Regression
from incr_core.runs import Version
from incr_core.strategies import Ditto
from tests.support.federated_runs import finish, people
from tests.support.federations import deployed
from tests.support.in_process_grid import InProcessGrid, on
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

DITTO = "strategy=[{name='replay', capacity=100, ratio=1.0}, {name='ditto', strength=0.1, lr=0.05}]"


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_step_is_the_papers(strength: float) -> None:
    """v <- v - lr (slope of the loss at v + lambda (v - a)), for a line."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ditto = Ditto(strength, lr=0.1)
    learner = Learner(model, Regression(), {"name": "sgd", "lr": 0.2}, [ditto], batch_size=2, shuffle=False)
    rows = Batch(torch.tensor([[1.0], [2.0], [3.0], [1.0]]), torch.tensor([2.0, 1.0, 0.0, 3.0]))
    learner.learn(rows)
    v = torch.ones(1, 1, requires_grad=True)
    for batch in rows.split(2):
        assert isinstance(batch.inputs, torch.Tensor)
        loss = learner.objective(batch.inputs @ v.mT, batch.targets, None)
        (slope,) = torch.autograd.grad(loss, v)
        v = (v - 0.1 * (slope + strength * (v - 1.0))).detach().requires_grad_()
    own = learner.own_weights()["model.weight"]
    assert own.item() == pytest.approx(v.item())
    assert model.weight.item() != pytest.approx(v.item())


def test_the_common_model_is_learned_as_without_it_and_each_client_answers_with_its_own(
    table: Path, tmp_path: Path
) -> None:
    """With dropout, several rounds and a draw; the same after every resume."""
    settings = "federated.rounds=2", "federated.fraction=0.6"
    plain = finish(people(table, *settings), tmp_path / "plain", on(InProcessGrid(3)))
    job = people(table, DITTO, *settings)
    found = finish(job, tmp_path / "run", on(InProcessGrid(3, forgetful=True)))
    assert (found.sha256, found.learned) == (plain.sha256, plain.learned)
    assert found.score != plain.score
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3))) == found

    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(table).slice(0, 50), rows)
    common = Version.load(tmp_path / "run").predict(rows)
    own = [Version.load(tmp_path / "run", client=f"colour={colour}").predict(rows) for colour in ("blue", "red")]
    assert not common.equals(own[0])
    assert not own[0].equals(own[1])
    assert common.equals(Version.load(tmp_path / "plain").predict(rows))


def test_an_owner_predicts_with_what_it_keeps(
    grid: Callable[..., OwnersGrid], files: list[Path], tmp_path: Path
) -> None:
    lent = grid()
    finish(deployed("strategy=[{name='ditto'}]"), tmp_path / "run", lent.engine)
    lent.close()
    rows = tmp_path / "rows.parquet"
    pq.write_table(pq.read_table(tmp_path / "all.parquet").slice(0, 50), rows)
    common = Version.load(tmp_path / "run").predict(rows)
    own = [Version.load(tmp_path / "run", client=str(file)) for file in files]
    found = [version.predict(rows) for version in own]
    assert not any(table.equals(common) for table in found)
    assert not found[0].equals(found[1])
    assert own[0].evaluate(rows)["rows"] == 50
    (tmp_path / "stranger.toml").write_text((tmp_path / "red" / "red.toml").read_text())
    with pytest.raises(JobError, match=r"expected the client to have taken part in run \w+, got 0"):
        Version.load(tmp_path / "run", client=str(tmp_path / "stranger.toml"))


def test_two_kinds_of_weights_of_ones_own_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="personal: expected none beside a strategy with personal models"):
        finish(people(table, DITTO, 'federated.personal=["layers.3"]'), tmp_path / "run", on(InProcessGrid(3)))
