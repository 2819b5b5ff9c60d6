"""SCAFFOLD's control variates, beside algorithm 1 of its paper by hand."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from incr_core.batch import Batch
from incr_core.engines import LocalEngine
from incr_core.learner import Learner
from incr_core.objectives import Binary
from incr_core.strategies import Scaffold
from incr_core.update import Weights, mean, merge_shared
from tests.support.federated_runs import finish, people
from tests.support.in_process_grid import InProcessGrid, on

LR, BATCH = 0.2, 4


def learner() -> Learner:
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=LR)
    return Learner(nn.Linear(3, 1), Binary(), sgd, [Scaffold()], batch_size=BATCH, shuffle=False)


def rows(client: int, number: int, count: int) -> Batch:
    """Clients that do not agree."""
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(10 * number + client))
    return Batch(inputs, (inputs[:, client] > 0.3 * client).float())


def added(values: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).sum(0)


def by_hand(counts: list[list[int]]) -> torch.Tensor:
    """Rounds of rows for each client; none: it is not asked. c sums by the rows that each has learned last."""
    model = learner().model
    x = [weight.detach().clone() for weight in model.parameters()]
    zeros = [torch.zeros_like(weight) for weight in x]
    controls: dict[int, list[torch.Tensor]] = {}
    last: dict[int, int] = {}
    common = zeros
    for number, asked in enumerate(counts):
        found = {}
        for client, count in enumerate(asked):
            if not count:
                continue
            y, batch = [weight.clone().requires_grad_() for weight in x], rows(client, number, count)
            own, steps = controls.get(client, zeros), 0
            for place in range(0, count, BATCH):
                part = slice(place, place + BATCH)
                output = F.linear(batch.inputs[part], y[0], y[1]).flatten()  # type: ignore[index]
                loss = F.binary_cross_entropy_with_logits(output, batch.targets[part])
                gradients = torch.autograd.grad(loss, y)
                with torch.no_grad():
                    for weight, g, c_i, c in zip(y, gradients, own, common, strict=True):
                        weight -= LR * (g - c_i + c)
                steps += 1
            option_2 = [
                c_i - c + (start - weight.detach()) / (steps * LR)
                for c_i, c, start, weight in zip(own, common, x, y, strict=True)
            ]
            found[client] = [weight.detach() for weight in y]
            controls[client], last[client] = option_2, count
        total = sum(asked)
        x = [added(asked[client] / total * found[client][place] for client in found) for place in range(len(x))]
        whole = sum(last.values())
        common = [
            added(last[client] / whole * controls[client][place] for client in controls) for place in range(len(x))
        ]
    return x[0]


def by_learners(counts: list[list[int]]) -> torch.Tensor:
    learners = [learner() for _ in counts[0]]
    anchor = {name: value.clone() for name, value in learners[0].weights().items()}
    shared: Weights = {name: value.clone() for name, value in learners[0].shared_state()[0].items()}
    rules = learners[0].shared_state()[1]
    for number, asked in enumerate(counts):
        there = [client for client, count in enumerate(asked) if count]
        updates = []
        for client in there:
            one = learners[client]
            one.adopt_shared(shared)
            one.adopt(anchor)
            one.begin(rows(client, number, asked[client]))
            updates.append(one.advance())
        anchor = {name: value.clone() for name, value in mean(updates, anchor, learners[0].rules()).items()}
        states = []
        for client in there:
            learners[client].adopt(anchor)
            learners[client].end(rows(client, number, asked[client]))
            states.append(learners[client].shared_state()[0])
        shared = merge_shared(states, [update.num_rows for update in updates], rules, shared)
    return anchor["model.weight"]


@pytest.mark.parametrize(
    "counts",
    [[[8, 8], [8, 8], [8, 8]], [[8, 8, 0], [0, 8, 8], [8, 0, 8], [8, 8, 8]], [[12, 4], [6, 20], [9, 7]]],
    ids=["all", "some are not asked", "unlike sizes"],
)
def test_it_is_the_papers_algorithm(counts: list[list[int]]) -> None:
    torch.testing.assert_close(by_learners(counts), by_hand(counts), rtol=1e-5, atol=1e-6)


def test_of_one_worker_alone_nothing_is_corrected_but_rounding() -> None:
    plain = Learner(learner().model, Binary(), partial(torch.optim.SGD, lr=LR), batch_size=BATCH, shuffle=False)
    corrected = learner()
    for number in range(4):
        plain.learn(rows(0, number, 20))
        corrected.learn(rows(0, number, 20))
    for name, value in plain.weights().items():
        torch.testing.assert_close(corrected.weights()[name], value, rtol=1e-5, atol=1e-6)


SETTINGS = ["strategy=[{name='scaffold'}]", "learner.optimizer={name='sgd',lr=0.1}", "model.dropout=0.0"]


@pytest.mark.flower
def test_controls_are_the_clients_own_and_survive_a_resume(table: Path, tmp_path: Path) -> None:
    job = people(table, *SETTINGS, "federated.fraction=0.6")
    whole = finish(job, tmp_path / "whole", on(InProcessGrid(3, forgetful=True)))
    for stop in (2, 5):
        finish(job, tmp_path / "parts", on(InProcessGrid(3)), stop_after=stop)
    assert finish(job, tmp_path / "parts", on(InProcessGrid(3))) == whole
    without = finish(
        people(table, *SETTINGS[1:], "strategy=[]", "federated.fraction=0.6"), tmp_path / "no", on(InProcessGrid(3))
    )
    assert without.sha256 != whole.sha256


@pytest.mark.flower
def test_one_client_is_the_local_run_bit_for_bit(table: Path, tmp_path: Path) -> None:
    job = people(table, *SETTINGS, "federated.clients=blocks:1")
    alone = finish(job, tmp_path / "alone", on(InProcessGrid(1)))
    assert alone.sha256 == finish(job, tmp_path / "local", LocalEngine).sha256
