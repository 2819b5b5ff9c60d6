"""The rules of federated papers, by our names for them, beside Flower's own strategies or the papers' formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from federated._flower_privates import be_server_of, run_numbered
from incr_core.rounds import AGGREGATIONS, OUTERS
from incr_core.rounds._weighted_steps import FedExP, FedNova, QFedAvg
from incr_core.update import Update, Weights
from tests.support.federated_runs import finish, people
from tests.support.in_process_grid import InProcessGrid, on

pytestmark = pytest.mark.flower

RULES = {"w": "mean", "b": "mean"}


def anchor_and_rounds(rounds: int = 3, clients: int = 4) -> tuple[Weights, list[list[Update]]]:
    """Some weights, and for each round what clients made of weights that are told then, as differences."""
    draw = torch.Generator().manual_seed(7)
    anchor = {"w": torch.randn(5, 3, generator=draw), "b": torch.randn(3, generator=draw)}
    moved = []
    for _ in range(rounds):
        updates = []
        for number in range(clients):
            step = {name: 0.1 * torch.randn(value.shape, generator=draw) for name, value in anchor.items()}
            update = Update(step, num_rows=10 * (number + 1), losses={"loss": 10 * (number + 1) * (0.5 + 0.3 * number)})
            update.steps = 2 * number + 1
            updates.append(update)
        moved.append(updates)
    return anchor, moved


def at(anchor: Weights, update: Update) -> Update:
    """An update whose weights are as far from the anchor as told."""
    there = Update({name: anchor[name] + step for name, step in update.weights.items()}, update.num_rows, update.losses)
    there.steps = update.steps
    return there


def replies(updates: list[Update]) -> list[Message]:
    """The same, as clients of Flower's strategies answer."""
    answers = []
    for number, update in enumerate(updates):
        arrays = ArrayRecord({name: Array(value.numpy()) for name, value in update.weights.items()})
        told = MetricRecord({"num-examples": update.num_rows, "train_loss": update.losses["loss"] / update.num_rows})
        asked = Message(RecordDict(), dst_node_id=number + 1, message_type="train")
        asked.metadata.__dict__["_message_id"] = str(number)
        answers.append(Message(RecordDict({"arrays": arrays, "metrics": told}), reply_to=asked))
    return answers


# Not its adaptive ones: they begin v at zero, where the paper, and ours, begin at tau^2 (tests/rounds/test_outer.py).
CASES = [
    ("fedavg", {"name": "mean"}, {"name": "mean"}, lambda: flower.FedAvg()),
    (
        "fedavgm",
        {"name": "mean"},
        {"name": "momentum", "lr": 0.9, "momentum": 0.7},
        lambda: flower.FedAvgM(server_learning_rate=0.9, server_momentum=0.7),
    ),
    ("qfedavg", {"name": "qfedavg", "q": 0.5, "lr": 0.1}, {"name": "mean"}, lambda: flower.QFedAvg(0.1, q=0.5)),
    ("median", {"name": "median"}, {"name": "mean"}, lambda: flower.FedMedian()),
    ("trimmed", {"name": "trimmed_mean", "share": 0.25}, {"name": "mean"}, lambda: flower.FedTrimmedAvg(beta=0.25)),
    ("krum", {"name": "krum", "share": 0.25}, {"name": "mean"}, lambda: flower.Krum(num_malicious_nodes=1)),
]


@pytest.mark.parametrize(
    ("aggregation", "outer", "theirs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_rule_is_flowers_strategy_on_the_same_numbers(
    aggregation: dict[str, Any], outer: dict[str, Any], theirs: Any
) -> None:
    merge = AGGREGATIONS[aggregation["name"]](**{key: value for key, value in aggregation.items() if key != "name"})
    step = OUTERS[outer["name"]](**{key: value for key, value in outer.items() if key != "name"})
    be_server_of(run_numbered(2_000_000))
    weights, moved = anchor_and_rounds()
    mine, other = weights, ArrayRecord({name: Array(value.numpy()) for name, value in weights.items()})
    strategy = theirs()
    for number, round_ in enumerate(moved, 1):
        strategy.current_arrays = other.copy()  # what configure_train keeps, where a strategy needs it
        found, _ = strategy.aggregate_train(number, replies([at(mine, update) for update in round_]))
        assert found is not None
        mine = step.step(mine, merge.merge([at(mine, update) for update in round_], mine, RULES), RULES)
        other = found
        for name, value in mine.items():
            assert np.allclose(value.numpy(), other[name].numpy(), atol=2e-6), name


def test_fednova_is_the_papers_update() -> None:
    """Clients of plain SGD: d_i is the mean of the gradients on the way, and x steps by lr t_eff sum p_i d_i."""
    lr, (anchor, moved) = 0.1, anchor_and_rounds(rounds=1)
    draw = torch.Generator().manual_seed(3)
    p, normalized, updates = [0.1, 0.2, 0.3, 0.4], [], []
    for update in moved[0]:
        gradients = [torch.randn(5, 3, generator=draw) for _ in range(update.steps)]
        there = Update({**anchor, "w": anchor["w"] - lr * torch.stack(gradients).sum(0)}, update.num_rows)
        there.steps = update.steps
        updates.append(there)
        normalized.append(torch.stack(gradients).mean(0))
    effective = sum(share * update.steps for share, update in zip(p, updates, strict=True))
    expected = anchor["w"] - lr * effective * sum(share * d for share, d in zip(p, normalized, strict=True))
    merged = AGGREGATIONS["fednova"]().merge(updates, anchor, RULES)
    torch.testing.assert_close(merged["w"], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(merged["b"], anchor["b"])
    for update in updates:
        update.steps = 5
    by_rows = AGGREGATIONS["mean"]().merge(updates, anchor, RULES)
    assert torch.equal(AGGREGATIONS["fednova"]().merge(updates, anchor, RULES)["w"], by_rows["w"])


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_fednova_counts_steps_with_momentum_as_they_add_up(steps: int) -> None:
    rho = 0.9
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=rho)
    for _ in range(steps):
        weight.grad = -torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert FedNova(rho).length(steps) == pytest.approx(weight.item())


def test_fedexp_is_the_papers_step() -> None:
    """Equation 7 for equal clients; clients that agree make no longer step than their mean, bit for bit."""
    weights, (moved, *_) = anchor_and_rounds()
    for update in moved:
        update.num_rows = 10
    flat = [torch.cat([step.flatten() for step in update.weights.values()]).double() for update in moved]
    mean = torch.stack(flat).mean(0)
    length = max(1.0, sum(float(one.square().sum()) for one in flat) / (2 * len(flat) * float(mean.square().sum())))
    assert length > 1.5
    found = FedExP().merge([at(weights, update) for update in moved], weights, RULES)
    step = torch.cat([(found[name] - weights[name]).flatten() for name in weights])
    assert torch.allclose(step.double(), length * mean, atol=1e-6)
    alike = [at(weights, moved[0])] * 3
    for name, value in FedExP().merge(alike, weights, RULES).items():
        assert torch.equal(value, alike[0].weights[name])


def test_what_the_clients_optimiser_says_a_rule_need_not(table: Path) -> None:
    sgd = 'learner.optimizer={name="sgd",lr=0.25,momentum=0.8}'
    nova = people(table, sgd, "federated.aggregation=fednova").aggregation()
    assert isinstance(nova, FedNova)
    assert nova.momentum == 0.8
    fair = people(table, sgd, 'federated.aggregation={name="qfedavg",q=0.5}').aggregation()
    assert isinstance(fair, QFedAvg)
    assert (fair.lr, fair.q) == (0.25, 0.5)


def test_clients_tell_their_steps(table: Path, tmp_path: Path) -> None:
    """Clients of unlike sizes: FedNova comes to another model than the mean; of one client, to the same."""
    found = {
        (rule, clients): finish(
            people(table, f"federated.clients={clients}", f"federated.aggregation={rule}", "stream.every=1000"),
            tmp_path / f"{rule}-{clients}",
            on(InProcessGrid(3 if clients == "colour" else 1)),
        ).sha256
        for rule in ("mean", "fednova")
        for clients in ("colour", "blocks:1")
    }
    assert found["mean", "colour"] != found["fednova", "colour"]
    assert found["mean", "blocks:1"] == found["fednova", "blocks:1"]
