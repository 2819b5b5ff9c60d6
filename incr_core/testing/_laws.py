"""The laws that every strategy obeys, as a single check for user-defined strategies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.learner import Learner
from incr_core.memories import Memory
from incr_core.objectives import Multiclass, Objective
from incr_core.storage.packing import pack, unpack
from incr_core.strategies import Strategy
from incr_core.testing._trial import Small, Trial, compare, everything, three_classes
from incr_core.update import merge, shares

__all__ = ["check_strategy"]


def check_strategy(
    make: Callable[[], Strategy],
    *,
    zero: Callable[[], Strategy] | None = None,
    model: Callable[[], nn.Module] | None = None,
    objective: Callable[[], Objective] | None = None,
    increments: Sequence[Batch] | None = None,
    device: str = "cpu",
) -> None:
    """Check that a strategy obeys the laws.

        resume      stopped after any increment or step, saved, and loaded by a new learner, or by the same one after
                    further learning: the same bits
        tidy        torch's global random state and the given rows stay unchanged
        zero        `zero()`, the strategy with its strength at 0, learns the same bits as no strategy
        state       names and shapes in its state, except the number of rows held, are the same after day 1 and day 100
        moves       it learns a float64 model, and a model on a GPU if there is one
        merge       its shared state merges the same in any order and grouping, and adopting its own state changes
                    nothing; it declares `Traits.remakes` if it changes the model when an increment ends
        memory      no memory holds more rows than its capacity, or takes more bytes than after its first rows

    Args:
        make: Creates a new strategy at each call, always with the same arguments.
        zero: Creates the strategy with strength 0. None skips this law.
        model: Creates the model. The default is a small MLP with Dropout.
        objective: Creates the objective. The default has three classes.
        increments: Increments with float inputs. The default is three increments of 38 rows of three classes, so that
            the last batch is ragged.
        device: Device to learn on.

    Raises:
        AssertionError: The strategy breaks a law; the message names the law, the place and the likely cause.

    Example:
        >>> from incr_core.strategies import Replay
        >>> check_strategy(partial(Replay, capacity=10), zero=partial(Replay, ratio=0.0))

        A strategy whose state is not saved:

        >>> class Forgetful(Strategy):
        ...     "Weigh the loss by the number of the step, since it was made."
        ...     steps = 0
        ...     def loss(self, ctx, batch, output):
        ...         self.steps += 1
        ...         return {"forgetful": self.steps * 0.01 * output.square().mean()}
        >>> check_strategy(Forgetful)
        Traceback (most recent call last):
        ...
        AssertionError: Forgetful breaks the law of resume: stopped 3 of 10 steps into increment 0, saved and loaded, it
        learns another model.layers.0.weight (up to ... away); keep all it depends on in buffers or get_extra_state
    """
    laws = Laws(make, model or Small, objective or partial(Multiclass, 3), list(increments or three_classes()), device)
    laws.check_resume()
    laws.check_tidy()
    if zero is not None:
        laws.check_zero(zero)
    laws.check_state()
    laws.check_moves()
    laws.check_merge()
    laws.check_memory()


class Laws(Trial):
    """One check for each law."""

    def check_resume(self) -> None:
        """Check that resume equals uninterrupted learning, at the boundaries of increments and within."""
        expected = everything(self.learned(self.make()))
        for number, labelled in enumerate(self.increments):
            steps = self.learner(self.make()).steps_in(len(labelled))
            # Once within each increment, at different places, and once after each increment but the last, where no step
            # is left.
            for taken in (1 + (number + 1) * steps // 4, None)[: 2 if labelled is not self.increments[-1] else 1]:
                where = "after" if taken is None else f"{taken} of {steps} steps into"
                for by, fresh in (("", True), (" by the learner that had learned on", False)):
                    found = everything(self._resumed(number, taken, fresh=fresh))
                    for name, value in expected.items():
                        same, distance = compare(found.get(name), value)
                        self.require(
                            same,
                            "resume",
                            f"stopped {where} increment {number}, saved and loaded{by}, it learns another {name} "
                            f"({distance}); keep all it depends on in buffers or get_extra_state",
                        )

    def _resumed(self, number: int, taken: int | None, fresh: bool) -> Learner:
        """Learn all increments, but stop in increment `number` and continue with a new learner or the same one."""
        learner = self.learner(self.make())
        for labelled in self.increments[:number]:
            learner.learn(labelled)
        learner.begin(self.increments[number])
        learner.advance(taken)
        if taken is None:
            learner.end(self.increments[number])
        # Pack and unpack the state as a file would, without the disk.
        tensors, rest = pack({"weights": learner.weights(), "learner": learner.state_dict()})
        state = unpack(tensors, json.loads(json.dumps(rest)))
        if fresh:
            learner = self.learner(self.make(), seed=4)
        else:  # a restart in the middle of the next increment
            learner.begin(self.increments[(number + (taken is None)) % len(self.increments)])
            learner.advance(3)
        learner.adopt(state["weights"])
        learner.load_state_dict(state["learner"])
        for labelled in self.increments[number + (taken is None) :]:
            learner.learn(labelled)
        return learner

    def check_tidy(self) -> None:
        """Check that nothing outside the learner is changed."""
        before, rows = torch.get_rng_state(), [labelled.map(torch.clone) for labelled in self.increments]
        self.learned(self.make(), shuffle=False)  # unshuffled batches are views of the rows, not copies
        untouched = torch.equal(torch.get_rng_state(), before)
        self.require(untouched, "tidiness", "it draws from torch's global generator; use ctx.generator")
        for number, (now, then) in enumerate(zip(self.increments, rows, strict=True)):
            same = [torch.equal(*pair) for pair in zip(_tensors(now), _tensors(then), strict=True)]
            self.require(all(same), "tidiness", f"it changes the rows of increment {number}; return new ones instead")

    def check_zero(self, zero: Callable[[], Strategy]) -> None:
        """Check that zero strength equals no strategy, bit for bit."""
        expected, found = self.learned().weights(), self.learned(zero()).weights()
        for name, value in expected.items():
            same, distance = compare(found[name], value)
            self.require(same, "zero strength", f"{zero()} learns another {name} than no strategy ({distance})")

    def check_state(self) -> None:
        """Check that the state has the same names and shapes on day 1 and day 100, except the number of rows held."""
        learner = self.learner(self.make())

        def layout() -> dict[str, Any]:
            state = learner.strategies.state_dict()
            return {name: tuple(v.shape[1:]) if isinstance(v, Tensor) else sorted(v) for name, v in state.items()}

        few = torch.arange(min(6, *map(len, self.increments)))
        first: dict[str, Any] = {}
        for day in range(100):
            learner.learn(self.increments[day % len(self.increments)].take(few))
            first = first or layout()
        last = layout()
        changed = sorted(name for name in first.keys() | last.keys() if first.get(name) != last.get(name))
        self.require(
            not changed,
            "state",
            f"between day 1 and day 100 the name or shape of {', '.join(changed)} changes; allocate it in attach",
        )

    def check_moves(self) -> None:
        """Check that a float64 model is learned in float64, and a model on a GPU, if there is one, on that GPU."""
        moves = [("cpu", torch.float64)] + [("cuda", torch.float32)] * torch.cuda.is_available()
        for device, dtype in moves:

            def cast(tensor: Tensor, to: torch.dtype = dtype) -> Tensor:
                return tensor.to(to) if tensor.is_floating_point() else tensor

            learner, again = (self.learner(self.make(), dtype=dtype, device=device) for _ in range(2))
            for labelled in self.increments:
                learner.learn(labelled.map(cast))
            again.load_state_dict(learner.state_dict())
            for name, value in {**learner.weights(), **again.strategies.state_dict()}.items():
                if isinstance(value, Tensor):
                    place = f"{name} of a {dtype} model on {device}"
                    self.require(value.device.type == device, "moves", f"{place} is on {value.device}")
                    if value.is_floating_point():
                        self.require(bool(value.isfinite().all()), "moves", f"{place} is not finite")
            for name, weight in learner.model.named_parameters():
                self.require(weight.dtype == dtype, "moves", f"{name} of a {dtype} model became {weight.dtype}")

    def check_merge(self) -> None:
        """Check that shared state merges to the same result in any order and grouping."""
        learners = [self.learner(self.make()) for _ in range(3)]
        for learner, labelled in zip(learners, self.increments * 3, strict=False):
            learner.learn(labelled)
        states, rules = [learner.shared_state()[0] for learner in learners], learners[0].shared_state()[1]
        for name in self.make().traits.shared:
            exists = any(f"{key}.".startswith(f"0.{name}.") for key in rules)
            self.require(exists, "merge", f"its trait `shared` names {name!r}, which is not one of its buffers")
        rows = [10, 20, 30]
        for name, rule in rules.items():
            values = [state[name] for state in states]
            expected = _merged(values, rows, rule)
            for a, b, c in permutations(range(3)):
                pair = _merged([values[a], values[b]], [rows[a], rows[b]], rule)
                found = _merged([pair, values[c]], [rows[a] + rows[b], rows[c]], rule)
                close = torch.allclose(found.double(), expected.double(), rtol=1e-4, atol=1e-6)
                self.require(close, "merge", f"{name}: {rule} in another order or grouping gives another result")
        own = {name: value.clone() for name, value in states[0].items()}
        learners[0].adopt_shared(own)
        for name, value in learners[0].shared_state()[0].items():
            self.require(torch.equal(value, own[name]), "merge", f"{name}: taking back its own state changes it")
        self._check_remakes()

    def _check_remakes(self) -> None:
        """Check that a strategy whose `end` changes the model declares it; otherwise participants would lose the
        change.
        """
        learner, labelled = self.learner(self.make()), self.increments[0]
        learner.begin(labelled)
        before = {name: value.clone() for name, value in learner.advance().weights.items()}
        learner.end(labelled, derives=False)
        changed = [name for name, value in learner.weights().items() if not torch.equal(value, before[name])]
        self.require(
            learner.remakes or not changed,
            "merge",
            f"`end` changes {', '.join(changed)}, and other participants do not receive the change; "
            "declare traits = Traits(remakes=True)",
        )

    def check_memory(self) -> None:
        """Check that memories stay within their rows and their bytes."""
        learner, taken = self.learner(self.make()), dict[str, int]()
        for labelled in self.increments:
            learner.learn(labelled)
            for name, memory in learner.strategies.named_modules():
                if not isinstance(memory, Memory):
                    continue
                fits = memory.size <= memory.capacity
                self.require(fits, "memory", f"{name} holds {memory.size} rows of at most {memory.capacity}")
                held = memory.bytes()
                before = taken.setdefault(name, held) or held
                self.require(held <= before, "memory", f"{name} took {before} bytes, and takes {held} later")
                within = memory.budget is None or held <= memory.budget
                self.require(within, "memory", f"{name} takes {held} bytes of at most {memory.budget}")


def _merged(values: Sequence[Tensor], rows: Sequence[int], rule: str) -> Tensor:
    return merge(values, shares(rows), rule, torch.zeros_like(values[0]))


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    batch.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found
