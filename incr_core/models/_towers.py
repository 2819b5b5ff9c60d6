"""The built-in model for ranking: separate towers for query and item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models._mlp import TableMLP, TableShape

__all__ = ["TwoTower"]


class TwoTower(nn.Module):
    """A table model for the columns of the item and one for all others, combined only by their inner product.

    Items can therefore be scored ahead of queries.

    Args:
        shape: Shape of the rows; its outputs are divided between the towers.
        numeric: Places of the item's numeric columns.
        categorical: Places of the item's categorical columns.
        hidden: As for `TableMLP`, for each tower.
        embedding: As for `TableMLP`, for each tower.
        dropout: As for `TableMLP`, for each tower.

    Example:
        >>> model = TwoTower(TableShape(numeric=3, categorical=0, buckets=2, outputs=8), numeric=[2], hidden=[4])
        >>> model(torch.randn(5, 3)).shape
        torch.Size([5, 8])

    Reference:
        Covington et al. 2016, "Deep neural networks for YouTube recommendations".
    """

    draws_nothing: ClassVar[bool] = True

    item_numeric: Tensor
    item_categorical: Tensor
    query_numeric: Tensor
    query_categorical: Tensor

    def __init__(
        self,
        shape: TableShape,
        numeric: Sequence[int] = (),
        categorical: Sequence[int] = (),
        hidden: Sequence[int] = (128, 64),
        embedding: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for tower, wanted in (("item", True), ("query", False)):
            numbers = [place for place in range(shape.numeric) if (place in numeric) == wanted]
            categories = [place for place in range(shape.categorical) if (place in categorical) == wanted]
            self.register_buffer(f"{tower}_numeric", torch.tensor(numbers, dtype=torch.int64), persistent=False)
            self.register_buffer(f"{tower}_categorical", torch.tensor(categories, dtype=torch.int64), persistent=False)
            part = replace(shape, numeric=len(numbers), categorical=len(categories), outputs=shape.outputs // 2)
            self.add_module(tower, TableMLP(part, hidden, embedding, dropout))
        self.item: TableMLP
        self.query: TableMLP

    def forward(self, inputs: Inputs) -> Tensor:
        """Return [u | v], (B, outputs)."""
        query, item = self._by_tower(inputs)
        return torch.cat([self.query(query), self.item(item)], dim=1)

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the moments of both towers."""
        query, item = self._by_tower(inputs)
        return {
            **{f"query.{name}": value for name, value in self.query.observe(query).items()},
            **{f"item.{name}": value for name, value in self.item.observe(item).items()},
        }

    def _by_tower(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        if not isinstance(inputs, dict):
            return inputs.index_select(1, self.query_numeric), inputs.index_select(1, self.item_numeric)
        query, item = (
            {"numeric": inputs["numeric"].index_select(1, n), "categorical": inputs["categorical"].index_select(1, c)}
            for n, c in ((self.query_numeric, self.query_categorical), (self.item_numeric, self.item_categorical))
        )
        return query, item
