"""Hand-written training loops: each strategy's maths in plain torch, with which `step.py` compares the learner.

Each loop is written for one strategy, one optimiser and one network: constants computed once an increment, foreach
operations, and no autograd for terms with a closed form. The loops draw from generators as the learner does, so both
learn the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.optim import Optimizer

__all__ = ["AGEM", "EWC", "L2SP", "SI", "DERpp", "Loop", "Replay"]


class Loop:
    """Follow the loss, in batches of `size`; the subclasses do more."""

    def __init__(self, model: nn.Module, descent: Optimizer, size: int) -> None:
        self.model, self.descent, self.size = model, descent, size
        self.weights: list[Tensor] = list(model.parameters())
        self.order, self.draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)

    def batches(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in a new order."""
        index = torch.randperm(len(x), generator=self.order)
        return zip(torch.split(x[index], self.size), torch.split(y[index], self.size), strict=True)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """One increment; returns the sum of the rows' losses."""
        self.model.train()
        total = torch.zeros(())
        for new_x, new_y in self.batches(x, y):
            loss = F.cross_entropy(self.model(new_x), new_y)
            self.descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.bend()
            self.descent.step()
            total += loss.detach() * len(new_x)
        return float(total)

    def bend(self) -> None:
        """Edit the gradients of a step."""

    def consolidate(self, x: Tensor, y: Tensor) -> None:
        """The increment is over."""

    def gradients(self) -> list[Tensor]:
        """Of the weights, in their order."""
        return [weight.grad for weight in self.weights]  # type: ignore[misc]

    def copies(self) -> list[Tensor]:
        """The weights as they are now."""
        return [weight.detach().clone() for weight in self.weights]

    def taken_implicitly(self, stiffness: list[Tensor]) -> list[Tensor]:
        """k / (1 + lr k): what pulls as hard as a spring of stiffness k and does not overshoot."""
        lr = self.descent.param_groups[0]["lr"]
        return [k / (1 + lr * k) for k in stiffness]


class Reservoir:
    """Algorithm R as one would write it for a few columns, its slots drawn for `ahead` rows at once."""

    ahead = 4096

    def __init__(self, capacity: int) -> None:
        self.capacity, self.seen, self.drawn, self.next = capacity, 0, 0, 0
        self.columns: list[Tensor] = []
        self.coming = torch.empty(2, 0, dtype=torch.int64)  # numbers of rows that will stay, and their slots

    def sample(self, count: int, generator: torch.Generator, apart: bool = True) -> list[Tensor]:
        """Rows drawn uniformly; `apart`: from a small memory without replacement."""
        held = min(self.seen, self.capacity)
        if held > 16 * count or not apart:
            index = torch.randint(held, (count,), generator=generator)
        else:  # none twice before all were drawn once
            turns = [torch.randperm(held, generator=generator) for _ in range(-(-count // held))]
            index = torch.cat(turns)[:count]
        return [column[index] for column in self.columns]

    def insert(self, generator: torch.Generator, *columns: Tensor) -> None:
        """Show it new rows."""
        if not self.columns:
            self.columns = [column.new_zeros(self.capacity, *column.shape[1:]) for column in columns]
        first, count = self.seen, len(columns[0])
        self.seen += count
        filling = min(count, max(0, self.capacity - first))
        if filling:
            for held, column in zip(self.columns, columns, strict=True):
                held[first : first + filling] = column[:filling]
        if filling == count or self.seen <= self.next:
            return
        if self.seen > self.drawn:
            start = max(self.drawn, self.capacity)
            self.drawn = start + -(-(self.seen - start) // self.ahead) * self.ahead
            number = torch.arange(start, self.drawn)
            slots = (torch.rand(len(number), generator=generator, dtype=torch.float64) * (number + 1)).long()
            stay = slots < self.capacity
            self.coming = torch.cat([self.coming, torch.stack([number[stay], slots[stay]])], dim=1)
        kept = int(torch.searchsorted(self.coming[0], self.seen))
        number, slots = self.coming[:, :kept]
        for held, column in zip(self.columns, columns, strict=True):
            held[slots] = column[number - first]
        self.coming = self.coming[:, kept:]
        self.next = int(self.coming[0, 0]) if self.coming.shape[1] else self.drawn


class Rehearsal(Loop):
    """A loop with a memory."""

    capacity = 500

    def __init__(self, model: nn.Module, descent: Optimizer, size: int) -> None:
        super().__init__(model, descent, size)
        self.memory = Reservoir(self.capacity)


class Replay(Rehearsal):
    """As many remembered rows as new ones, in one forward."""

    def learn(self, x: Tensor, y: Tensor) -> float:
        """One increment."""
        self.model.train()
        total = torch.zeros(())
        for new_x, new_y in self.batches(x, y):
            mixed_x, mixed_y = new_x, new_y
            if self.memory.seen:
                old_x, old_y = self.memory.sample(len(new_x), self.draws, apart=False)
                mixed_x, mixed_y = torch.cat([new_x, old_x]), torch.cat([new_y, old_y])
            loss = F.cross_entropy(self.model(mixed_x), mixed_y)
            self.descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.descent.step()
            total += loss.detach() * len(new_x)
            self.memory.insert(self.draws, new_x, new_y)
        return float(total)


class DERpp(Rehearsal):
    """Dark experience replay with labels; all rows in one forward."""

    logits, labels = 0.5, 0.5

    def learn(self, x: Tensor, y: Tensor) -> float:
        """One increment."""
        self.model.train()
        total = torch.zeros(())
        for new_x, new_y in self.batches(x, y):
            count = len(new_x)
            if self.memory.seen:
                dark_x, _, dark_z = self.memory.sample(count, self.draws)
                old_x, old_y, _ = self.memory.sample(count, self.draws)
                output = self.model(torch.cat([new_x, dark_x, old_x]))
                loss = (
                    F.cross_entropy(output[:count], new_y)
                    + self.logits * F.mse_loss(output[count : 2 * count], dark_z)
                    + self.labels * F.cross_entropy(output[2 * count :], old_y)
                )
            else:
                output = self.model(new_x)
                loss = F.cross_entropy(output, new_y)
            self.descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.descent.step()
            total += loss.detach() * count
            self.memory.insert(self.draws, new_x, new_y, output[:count].detach())
        return float(total)


class L2SP(Loop):
    """Every weight pulled towards where it started."""

    strength = 0.01

    def __init__(self, model: nn.Module, descent: Optimizer, size: int) -> None:
        super().__init__(model, descent, size)
        self.anchor = self.copies()

    @torch.no_grad()
    def bend(self) -> None:
        """The penalty's gradient."""
        moved = torch._foreach_sub(self.weights, self.anchor)
        torch._foreach_add_(self.gradients(), moved, alpha=self.strength)


class EWC(L2SP):
    """Weights pulled towards where they were by their Fisher information, estimated from `samples` rows."""

    strength, samples = 100.0, 64

    def __init__(self, model: nn.Module, descent: Optimizer, size: int) -> None:
        super().__init__(model, descent, size)
        self.fisher = self.stiffness = [torch.zeros_like(weight) for weight in self.anchor]

    @torch.no_grad()
    def bend(self) -> None:
        """The penalty's gradient."""
        torch._foreach_addcmul_(self.gradients(), torch._foreach_sub(self.weights, self.anchor), self.stiffness)

    def consolidate(self, x: Tensor, y: Tensor) -> None:
        """Add to the Fisher information: the mean over rows of sum_c p_c (d log p_c / d w)^2."""
        self.model.eval()
        weights = {name: weight.detach() for name, weight in self.model.named_parameters()}

        def log_p(weights: dict[str, Tensor], row: Tensor, label: int) -> Tensor:
            output: Tensor = functional_call(self.model, weights, row[None])
            return output.log_softmax(1)[0, label]

        rows = x[torch.randperm(len(x), generator=self.draws)[: self.samples]]
        p = self.model(rows).detach().softmax(1)
        found = [torch.zeros_like(weight) for weight in self.anchor]
        for first in range(0, len(rows), 16):
            some = slice(first, first + 16)
            for label in range(p.shape[1]):
                gradients = vmap(grad(log_p), (None, 0, None))(weights, rows[some], label)
                for total, gradient in zip(found, gradients.values(), strict=True):
                    total += torch.tensordot(p[some, label], gradient.square(), 1) / len(rows)
        self.fisher = [old + new for old, new in zip(self.fisher, found, strict=True)]
        self.stiffness = self.taken_implicitly([self.strength * value for value in self.fisher])
        self.anchor = self.copies()


class SI(Loop):
    """Weights pulled towards where they were by what they earned on the way there."""

    strength, damping = 1.0, 0.1

    def __init__(self, model: nn.Module, descent: Optimizer, size: int) -> None:
        super().__init__(model, descent, size)
        self.anchor = self.copies()
        self.path, self.importance, self.stiffness = ([torch.zeros_like(w) for w in self.anchor] for _ in range(3))

    def learn(self, x: Tensor, y: Tensor) -> float:
        """One increment."""
        self.model.train()
        total = torch.zeros(())
        for new_x, new_y in self.batches(x, y):
            loss = F.cross_entropy(self.model(new_x), new_y)
            self.descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                own, before = [gradient.clone() for gradient in self.gradients()], self.copies()
                torch._foreach_addcmul_(self.gradients(), torch._foreach_sub(before, self.anchor), self.stiffness)
                self.descent.step()
                torch._foreach_addcmul_(self.path, own, torch._foreach_sub(self.weights, before), value=-1.0)
            total += loss.detach() * len(new_x)
        return float(total)

    def consolidate(self, x: Tensor, y: Tensor) -> None:
        """Turn the path into importance."""
        now = self.copies()
        for importance, path, weight, anchor in zip(self.importance, self.path, now, self.anchor, strict=True):
            importance += path.clamp(min=0) / ((weight - anchor).square() + self.damping)
            path.zero_()
        self.stiffness = self.taken_implicitly([2 * self.strength * value for value in self.importance])
        self.anchor = now


class AGEM(Rehearsal):
    """A step against the gradient of remembered rows is turned; as many remembered rows as new ones."""

    def bend(self) -> None:
        """Take out the part of the gradient that points against that of remembered rows."""
        if not self.memory.seen:
            return
        old_x, old_y = self.memory.sample(self.size, self.draws)
        references = torch.autograd.grad(F.cross_entropy(self.model(old_x), old_y), self.weights)
        gradients = self.gradients()
        inner = sum(torch.dot(g.flatten(), r.flatten()) for g, r in zip(gradients, references, strict=True))
        if inner < 0:
            square = sum(torch.dot(r.flatten(), r.flatten()) for r in references)
            torch._foreach_sub_(gradients, torch._foreach_mul(references, inner / square))

    def consolidate(self, x: Tensor, y: Tensor) -> None:
        """Remember what was learned."""
        self.memory.insert(self.draws, x, y)
