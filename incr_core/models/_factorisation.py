"""Factorisation model for ratings and clicks: biases and factors of ids, and a linear part for other columns."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models._id_counts import count_ids
from incr_core.models._id_table import IdTable
from incr_core.models._mlp import TableShape
from incr_core.models._moments import Moments

__all__ = ["Factorisation"]

SHRUNK_BIAS, SHRUNK_FACTORS = 1.0, 10.0
"""Occurrences of an id at which its bias, and its factors, count half. Chosen on synthetic ratings whose seeds differ
from those of `benchmarks/ratings.py`."""


class Factorisation(nn.Module):
    """Biased matrix factorisation of two ids, and a factorisation machine of more.

        output = b + sum_k b_k n_k / (n_k + 1) + sum_{k<l} <u_k, u_l> + w x + sum_c w_c
        u_k = v_k n_k / (n_k + 10)

    b_k and v_k are the bias and the factors of the row's k-th id (`IdTable`), which was seen n_k times. x are the row's
    numbers, normalised by moments that merge exactly, with an indicator for each missing number. w_c are the weights of
    its categories. The objective adds the mean: `Regression` works in units of the target's spread around it. Rare ids
    are shrunk towards 0, and an id without a row contributes 0. So the prediction for a new user and a new item is the
    mean.

    Koren, Bell & Volinsky 2009, "Matrix factorization techniques for recommender systems", equation 4; Rendle 2010,
    "Factorization machines", equation 1.

    Args:
        shape: the shape of the rows, with one output.
        factors: number of factors, the length of v_k.
        sparse, averaged: options of the tables, see `IdTable`.

    Shapes:
        {"numeric": (B, N), "ids": (B, K)} to (B, 1).

    Example:
        >>> model = Factorisation(TableShape(numeric=0, categorical=0, buckets=2, outputs=1, ids=2), factors=4)
        >>> model({"numeric": torch.zeros(3, 0), "ids": torch.tensor([[1, 2], [1, 3], [0, 2]])}).shape
        torch.Size([3, 1])
    """

    draws_nothing: ClassVar[bool] = True

    def __init__(self, shape: TableShape, factors: int = 8, *, sparse: bool = False, averaged: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.tables = nn.ModuleList(
            IdTable(
                shape.id_rows,
                1 + factors,
                shape.id_after,
                shape.id_unused,
                plain=1,
                sparse=sparse,
                averaged=averaged,
            )
            for _ in range(shape.ids)
        )
        self.moments = Moments(shape.numeric)
        self.bias = nn.Parameter(torch.zeros(1))
        self.linear = nn.Parameter(torch.zeros(2 * shape.numeric, 1)) if shape.numeric else None
        self.categories: nn.Embedding | None = None
        if shape.categorical:
            self.categories = nn.Embedding(shape.categorical * shape.buckets, 1)
            nn.init.zeros_(self.categories.weight)
        offsets = torch.arange(shape.categorical).reshape(-1, 1) * shape.buckets
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor

    def forward(self, inputs: Inputs) -> Tensor:
        """Values or logits, (B, 1)."""
        assert isinstance(inputs, dict)
        ids = inputs["ids"]
        found = [table.with_times(ids[:, place]) for place, table in enumerate(self.id_tables.values())]
        rows = torch.stack([row for row, _ in found])  # (K, B, 1 + factors)
        times = torch.stack([time for _, time in found]).unsqueeze(-1).to(rows.dtype)
        factors = rows[..., 1:] * (times / (times + SHRUNK_FACTORS))
        biases = rows[..., :1] * (times / (times + SHRUNK_BIAS))
        total = factors.sum(0)
        # sum_{k<l} <u_k, u_l> = (|sum_k u_k|^2 - sum_k |u_k|^2) / 2
        pairs = 0.5 * (total * total - (factors * factors).sum(0)).sum(1, keepdim=True)
        output: Tensor = biases.sum(0) + pairs + self.bias
        if self.linear is not None:
            output = output + self._normalised(inputs["numeric"]) @ self.linear
        if self.categories is not None:
            output = output + self.categories(inputs["categorical"] + self.offsets).sum((1, 2))
        return output

    def _normalised(self, numeric: Tensor) -> Tensor:
        missing = numeric.isnan()
        values = self.moments.standardise(numeric).clamp(-8.0, 8.0)
        return torch.cat([torch.where(missing, 0.0, values), missing.float()], dim=1)

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the moments, and the counts of their ids."""
        assert isinstance(inputs, dict)
        return {"moments.sums": self.moments.measure(inputs["numeric"]), **count_ids(self.id_tables, inputs["ids"])}

    @property
    def id_tables(self) -> dict[str, IdTable]:
        """The table of each id, in the order of `features.ids`, by its name."""
        return {f"tables.{place}": table for place, table in enumerate(self.tables) if isinstance(table, IdTable)}
