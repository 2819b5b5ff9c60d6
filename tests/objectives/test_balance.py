"""Rare classes weigh more, predictions stay probabilities, and counts merge exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from incr_core import Batch
from incr_core.commands.cli import main
from incr_core.errors import ArgumentError
from incr_core.learner import Learner
from incr_core.objectives import Balance, Binary, Blend, GrowingMulticlass, Multiclass
from incr_core.runs import Run, open_run


def taught(objective: Binary | Multiclass, labels: torch.Tensor) -> Any:
    """The objective once it has observed labels."""
    for name, value in objective.observe(labels).items():
        objective.get_buffer(name).add_(value)
    return objective


LABELS = torch.tensor([0] * 90 + [1] * 9 + [2])


def test_weights_are_powers_of_shares_whose_mean_over_rows_is_one() -> None:
    for strength in (0.0, 0.5, 1.0):
        balance = taught(Multiclass(4, balance=Balance(4, strength)), LABELS).balance
        weights = balance.weights()
        assert float(weights[LABELS].mean()) == pytest.approx(1.0)
        assert float(weights[2] / weights[0]) == pytest.approx(90**strength)
        assert weights[3] == 1.0, "a class that has not occurred"


def test_strength_zero_is_no_balance_to_the_bit() -> None:
    output = torch.randn(100, 3)
    plain, balanced = Multiclass(3), taught(Multiclass(3, balance=Balance(3, 0.0)), LABELS)
    assert torch.equal(plain.rows(output, LABELS), balanced.rows(output, LABELS))
    assert torch.equal(plain.predict(output), balanced.predict(output))


def test_the_loss_is_the_weighted_mean_also_in_halves() -> None:
    """Accumulation is exact since weights divide by rows, not by their own sum."""
    output = torch.randn(100, 3)
    balanced = taught(Multiclass(3, balance=Balance(3, 1.0)), LABELS)
    factors = balanced.balance.weights()[LABELS].float()
    ce = torch.nn.functional.cross_entropy(output, LABELS, reduction="none")
    whole = balanced(output, LABELS)
    assert float(whole) == pytest.approx(float((factors * ce).mean()), rel=1e-6)
    halves = [balanced(output[part], LABELS[part]) for part in (slice(0, 50), slice(50, 100))]
    assert float(torch.stack(halves).mean()) == pytest.approx(float(whole), rel=1e-6)


def test_predictions_for_the_stream_undo_the_weights() -> None:
    """A model without inputs that minimises the weighted loss predicts the shares of the stream."""
    shares = torch.tensor([0.9, 0.09, 0.01])
    balanced = taught(Multiclass(3, balance=Balance(3, 0.7)), LABELS)
    learned = (shares * balanced.balance.weights().float()).log()[None]
    assert balanced.predict(learned)[0].tolist() == pytest.approx(shares.tolist(), abs=1e-6)
    uniform = taught(Multiclass(3, balance=Balance(3, 0.7, "uniform")), LABELS)
    assert uniform.predict(learned)[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    two = taught(Binary(balance=Balance(2, 1.0)), torch.tensor([0.0] * 9 + [1.0]))
    assert float(two.predict(torch.zeros(1))) == pytest.approx(0.1)


def test_experts_solved_in_closed_form_are_not_shifted_by_weights_they_never_had() -> None:
    plain = Blend(Binary(), learned=1, solved=1)
    weighed = Blend(taught(Binary(balance=Balance(2, 1.0)), torch.tensor([0.0] * 9 + [1.0])), learned=1, solved=1)
    output = torch.tensor([[0.3, 0.4], [-0.5, 0.9]])
    assert weighed.answers(output)[1].tolist() == pytest.approx(plain.answers(output)[1].tolist())
    assert weighed.answers(output)[0].tolist() != pytest.approx(plain.answers(output)[0].tolist())


def test_counts_of_recent_rows_follow_shares_that_change() -> None:
    balance = Balance(2, 1.0, half_life=10)
    for labels in (torch.zeros(100), torch.ones(100)):
        for name, value in balance.observe(labels).items():
            balance.get_buffer(name).add_(value)
    assert balance.weights()[0] > 100 * balance.weights()[1]


def test_classes_that_arrive_later_count_from_then_on() -> None:
    growing = taught(GrowingMulticlass(4, balance=Balance(4, 1.0)), torch.tensor([0, 0, 0, 1]))
    assert growing.predict(torch.zeros(1, 4))[0].tolist() == pytest.approx([0.75, 0.25, 0.0, 0.0])


def test_what_is_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"balance.strength: expected a number from 0 to 1, got 2"):
        Balance(2, 2.0)
    with pytest.raises(ArgumentError, match=r'balance.prior: expected "stream" or "uniform", got \'flat\''):
        Balance(2, prior="flat")  # type: ignore[arg-type]


def test_weights_are_learned_with() -> None:
    """The linear step, written down for plain losses, leaves weighted ones to autograd."""
    rows = torch.cat([torch.zeros(90, 1), torch.ones(10, 1)])
    labels = torch.cat([torch.zeros(90), torch.ones(10)])
    moved = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        objective = taught(Binary(balance=Balance(2, strength)), labels)
        learner = Learner(torch.nn.Linear(1, 1), objective, "sgd", batch_size=100)
        learner.learn(Batch(rows, labels))
        moved[strength] = learner.weights()["model.weight"].clone()
    assert not torch.equal(moved[0.0], moved[1.0])


def events(n: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.03).astype(int)
    x = rng.normal(size=(n, 3))
    x[:, 0] += 2.0 * y
    who = np.where(np.arange(n) % 3 == 0, "a", "b")
    return pa.table({"x": x[:, 0], "z": x[:, 1], "who": who, "fraud": y})


@pytest.mark.slow
def test_rare_events_are_ranked_better_in_one_pass(tmp_path: Path) -> None:
    found = {}
    for strength in (0.0, 0.5):
        run = open_run(
            tmp_path / str(strength), stream=events(6000), label="fraud", numeric=["x", "z"], every=300,
            balance={"strength": strength}, warm_start=600,
        ).run()  # fmt: skip
        found[strength] = run.summary.prequential
    assert found[0.5]["average_precision"] > found[0.0]["average_precision"]
    assert found[0.5]["calibration_error"] < 0.02


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.flower
@pytest.mark.usefixtures("ray_session")
def test_counts_are_the_same_on_every_engine(tmp_path: Path) -> None:
    """All engines know all labels of an increment before it is learned; one replica or client has the bits of local."""
    pq.write_table(events(900), tmp_path / "rows.parquet")
    (tmp_path / "job.toml").write_text(
        '[stream]\npath = "rows.parquet"\nevery = 300\n[features]\nlabel = "fraud"\nnumeric = ["x", "z"]\n'
        'categorical = ["who"]\n[model]\nhidden = [4]\n[learner]\nobjective = "binary"\nbalance = true\n'
    )
    one = {
        "local": [],
        "cluster": ["--on", "cluster", "--set", "cluster.replicas=1"],
        "federated": ["--on", "federated", "--set", "federated.clients=iid:1", "--set", "federated.workers=1"],
    }
    two = {
        "cluster-2": ["--on", "cluster", "--set", "cluster.replicas=2"],
        "federated-2": ["--on", "federated", "--set", "federated.clients=who"],
    }
    digests, counts = {}, {}
    for name, options in (one | two).items():
        out = tmp_path / name
        assert main(["run", str(tmp_path / "job.toml"), "--out", str(out), "--quiet", *options]) == 0
        run = Run(out)
        digests[name] = run.summary.model_sha256
        counts[name] = run.champion.learner.objective.get_buffer("balance.counts").tolist()
    labels = events(900)["fraud"].to_numpy()
    assert set(map(tuple, counts.values())) == {(float((labels == 0).sum()), float((labels == 1).sum()))}
    assert len({digests[name] for name in one}) == 1
