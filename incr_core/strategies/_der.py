"""Dark experience replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from incr_core.batch import Batch, cat
from incr_core.memories import columns_of, draw, memory_named, to_batch
from incr_core.strategies._arguments import not_negative
from incr_core.strategies._base import Context, Strategy
from incr_core.strategies._traits import Traits

__all__ = ["DER"]


class DER(Strategy):
    """Replay rows with their labels and with the outputs that the model had when the rows were new.

        loss = mean loss of the n new rows
             + logits * mean (output - output when it was new)^2      over round(ratio * n) remembered rows
             + labels * mean loss                                     over as many others

    alpha in the paper is `logits`, beta is `labels`: DER is labels = 0, DER++ is labels > 0. All rows share one
    forward.

    Args:
        capacity: Capacity of the memory, in rows or bytes; see `Memory`.
        logits: Weight of the term on the outputs.
        labels: Weight of the term on the labels. If both weights are 0, the strategy is off.
        ratio: Remembered rows per new row, for each term. 0 turns the strategy off.
        memory: A name in `memories.MEMORIES`.
        ttl: Lifetime of rows in the memory; see `Memory`.

    Example:
        >>> DER(capacity=500, logits=0.2, labels=1.0)
        DER(
          capacity=500, logits=0.2, labels=1.0, ratio=1.0
          (memory): Reservoir()
        )

    Reference:
        Buzzega et al. 2020, "Dark experience for general continual learning", equations 6 and 7.
    """

    traits = Traits(rowwise=False)

    def __init__(
        self,
        capacity: int | str = 5000,
        logits: float = 0.5,
        labels: float = 0.5,
        ratio: float = 1.0,
        memory: str = "reservoir",
        ttl: int | None = None,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.logits = not_negative("der.logits", logits)
        self.labels = not_negative("der.labels", labels)
        self.ratio = not_negative("der.ratio", ratio)
        self.memory = memory_named("der.memory", memory, capacity, ttl)
        self._terms: list[tuple[str, slice, Mapping[str, Tensor]]] = []

    @property
    def off(self) -> bool:
        """Whether the ratio or both weights are 0."""
        return self.ratio == 0 or (self.logits == 0 and self.labels == 0)

    def augment(self, ctx: Context, batch: Batch) -> Batch:
        """Append remembered rows for each term, with weight 0 in the main loss."""
        self._terms = []
        if self.memory.available == 0:
            return batch
        count, parts = ctx.per_new_row(self.ratio), [batch]
        start = len(batch)
        for name, weight in (("der", self.logits), ("replay", self.labels)):
            if weight > 0:
                columns = draw(self.memory, count, ctx.generator)
                found = len(columns["targets"])
                parts.append(replace(to_batch(columns), weights=columns["logits"].new_zeros(found)))
                self._terms.append((name, slice(start, start + found), columns))
                start += found
        return cat(parts)

    def draws(self, rows: int, batches: int) -> int:
        """Return `ratio` rows per new row and term."""
        return round(self.ratio * rows * ((self.logits > 0) + (self.labels > 0)))

    def loss(self, ctx: Context, batch: Batch, output: Tensor) -> Mapping[str, Tensor]:
        """Return the two terms."""
        terms = {}
        for name, rows, columns in self._terms:
            if name == "der":
                terms[name] = self.logits * F.mse_loss(output[rows].float(), columns["logits"])
            else:
                terms[name] = self.labels * ctx.objective(output[rows], columns["targets"], columns.get("weights"))
        return terms

    def after_step(self, ctx: Context, batch: Batch, output: Tensor) -> None:
        """Insert the new rows and their outputs into the memory."""
        self.memory.insert({**columns_of(batch), "logits": output.float()}, ctx.generator)
