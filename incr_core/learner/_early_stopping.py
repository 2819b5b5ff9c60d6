"""Early stopping of the passes over an increment, by the loss on held-back rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from incr_core.batch import Batch
from incr_core.learner._learner import Learner
from incr_core.update import Update

__all__ = ["EarlyStopping"]


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Hold back `share` of an increment's rows, and stop after `patience` passes without a lower loss on them.

    The weights of the best pass are kept. The held-back rows are then learned in one pass, so that every row is
    learned, as the ledger states. If there are too few rows to hold one back, all passes are made.

    Args:
        share: Fraction of the rows to hold back.
        patience: Number of passes without improvement.

    Example:
        >>> rows = Batch(torch.zeros(8, 1), torch.arange(8.0))
        >>> kept, held = EarlyStopping(share=0.25, patience=1).split(rows, seed=0)
        >>> len(kept), len(held), sorted(torch.cat([kept.targets, held.targets]).int().tolist())
        (6, 2, [0, 1, 2, 3, 4, 5, 6, 7])
    """

    share: float
    patience: int

    def applies(self, rows: int, passes: int) -> bool:
        """Whether early stopping applies: more than one pass, and at least one row to hold back."""
        return passes > 1 and 0 < round(self.share * rows) < rows

    def split(self, labelled: Batch, seed: int) -> tuple[Batch, Batch]:
        """Divide the rows by a seeded draw into rows to learn and held-back rows, each in the original order."""
        count = round(self.share * len(labelled))
        order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))
        held, kept = order[:count].sort().values, order[count:].sort().values
        return labelled.take(kept), labelled.take(held)

    def learn(self, learner: Learner, kept: Batch, held: Batch, passes: int) -> Update:
        """Learn an increment that was begun with one pass over `kept`.

        Args:
            learner: The learner.
            kept: The rows to pass over.
            held: The held-back rows.
            passes: Maximum number of passes.

        Returns:
            An update that counts each row once, regardless of the passes made, so that participants with different
            numbers of passes are weighted by rows. Its loss "validation" is that of the best pass.
        """
        learned, losses = 0, dict[str, float]()

        def advance() -> None:
            nonlocal learned
            update = learner.advance()
            learned += update.num_rows
            for name, value in update.losses.items():
                losses[name] = losses.get(name, 0.0) + value

        best, weights, worse = float("inf"), learner.weights(), 0
        for number in range(passes):
            if number:
                learner.again(kept, 1)
            advance()
            loss = learner.loss_of(held)
            if loss < best:
                best, worse = loss, 0
                weights = {name: value.clone() for name, value in learner.weights().items()}
            else:
                worse += 1
                if worse == self.patience or not loss < float("inf"):
                    break
        if worse:
            learner.adopt(weights)
        learner.again(held, 1)
        advance()
        rows = len(kept) + len(held)
        found = {name: value * rows / learned for name, value in losses.items()}
        return Update(learner.weights(), rows, found | {"validation": best * rows})
