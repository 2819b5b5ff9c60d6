"""How an optimiser is stepped: nobody who observes a step is passed over, and the step is the optimiser's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch.nn.parameter import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.learner._optimizer_step import Descent, unobserved_step
from incr_core.objectives import Binary
from incr_core.strategies import Context, Strategy
from incr_core.strategies.mechanisms import QuadraticPenalty

PLAIN = [
    kind
    for _, kind in inspect.getmembers(torch.optim, inspect.isclass)
    if issubclass(kind, Optimizer) and kind not in (Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
]


def moved(kind: type[Optimizer], step: Callable[[Optimizer], object]) -> torch.Tensor:
    weight = Parameter(torch.linspace(-1.0, 1.0, 6).reshape(2, 3))
    optimizer = kind([weight], lr=0.1)  # type: ignore[call-arg]
    for _ in range(3):
        weight.grad = weight.detach() ** 3
        step(optimizer)
    return weight.detach()


@pytest.mark.parametrize("kind", PLAIN)
def test_is_the_step_of_every_optimizer_to_the_bit(kind: type[Optimizer]) -> None:
    assert torch.equal(
        moved(kind, lambda optimizer: optimizer.step()), moved(kind, lambda optimizer: unobserved_step(optimizer)())
    )


def test_the_step_of_an_optimizer_of_ones_own() -> None:
    class Sign(Optimizer):
        def __init__(self, parameters: list[Parameter]) -> None:
            super().__init__(parameters, {"lr": 0.5})

        @torch.no_grad()
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for weight in self.param_groups[0]["params"]:
                weight -= 0.5 * weight.grad.sign()

    weight = Parameter(torch.tensor([1.0, -1.0]))
    weight.grad = weight.detach().clone()
    unobserved_step(Sign([weight]))()
    assert weight.tolist() == [0.5, -0.5]


def stepped() -> tuple[Descent, Parameter]:
    weight = Parameter(torch.ones(1))
    return Descent(torch.optim.SGD([weight], lr=1.0), [weight]), weight


def test_hooks_are_called_from_the_step_after_they_were_registered() -> None:
    descent, weight = stepped()
    seen: list[str] = []
    descent.backward(weight.sum())
    descent.step()
    handles = [
        descent.optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        descent.optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        register_optimizer_step_pre_hook(lambda *_: seen.append("any")),
    ]
    descent.backward(weight.sum())
    descent.step()
    for handle in handles:
        handle.remove()
    descent.backward(weight.sum())
    descent.step()
    assert seen == ["any", "before", "after"]
    assert weight.item() == -2.0


def test_a_profiler_sees_the_step() -> None:
    descent, weight = stepped()
    descent.backward(weight.sum())
    with torch.profiler.profile() as profile:
        descent.step()
    assert "Optimizer.step#SGD.step" in {event.key for event in profile.key_averages()}


def test_a_scheduler_knows_that_a_step_was_taken() -> None:
    descent, weight = stepped()
    scheduler = StepLR(descent.optimizer, step_size=1)
    descent.backward(weight.sum())
    descent.step()
    scheduler.step()  # warns, an error in these tests, where it believes that no step came before
    assert scheduler.get_last_lr() == [0.1]


def test_an_anchor_holds_as_hard_at_a_raised_rate() -> None:
    class Spring(Strategy):
        """Stiffness k about 0, by hand: whatever the rate, a step of plain descent must not overshoot."""

        def after_backward(self, ctx: Context) -> None:
            weights, gradients, _ = ctx.weights_and_gradients()
            for gradient in gradients:
                gradient.zero_()
            QuadraticPenalty()(
                ctx, [torch.zeros_like(w) for w in weights], [torch.full_like(w, 1e9) for w in weights], 1.0
            )

    learner = Learner(
        torch.nn.Linear(2, 1), Binary(), lambda weights: torch.optim.SGD(weights, lr=0.1), [Spring()], batch_size=4
    )
    learner.descent.rate, learner.descent.scaled = 1.5, 2.0
    learner.learn(Batch(torch.ones(4, 2), torch.ones(4)))
    assert learner.context.rates() == pytest.approx(0.3)
    for weight in learner.model.parameters():
        assert torch.allclose(weight, torch.zeros(1), atol=1e-6)
