"""Learning imports no compiler: torch's takes as long as torch itself. Where it is, steps are as torch has them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

from tests.support.repository import ROOT

LEARNS = """
import sys
import torch
from incr_core import Batch, Learner
from incr_core.objectives import Regression

rows = Batch(torch.ones(8, 2), torch.ones(8))
for name in ("sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam"):
    learner = Learner(torch.nn.Linear(2, 1), Regression(), {"name": name, "lr": 0.01}, batch_size=4)
    learner.learn(rows)
    learner.load_state_dict(learner.state_dict())
    learner.learn(rows)
print(*sorted({"torch._dynamo", "sympy"} & {*sys.modules}))
"""


@pytest.mark.slow
def test_a_process_that_learns_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LEARNS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.mark.parametrize("compiler", [True, False], ids=["imported", "absent"])
@pytest.mark.parametrize("differentiable", [True, False])
def test_a_step_lets_gradients_through_where_it_is_to(
    compiler: bool, differentiable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch says, whether its compiler is there or not; and afterwards they flow as before."""
    if compiler:
        monkeypatch.setitem(sys.modules, "torch._dynamo", importlib.import_module("torch._dynamo"))
    else:
        monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    rate, weight = torch.ones(1, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.5, differentiable=differentiable)
    moving = weight.clone()
    optimizer.param_groups[0]["params"] = [moving]
    moving.grad = rate * torch.ones(2)
    optimizer.step()
    assert moving.tolist() == [-0.5, -0.5]
    assert torch.is_grad_enabled()
    (slope,) = torch.autograd.grad(moving.sum(), rate, allow_unused=True)
    assert slope == (torch.tensor(-1.0) if differentiable else None)
