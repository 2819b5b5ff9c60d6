"""The built-in model for ranking: a tower for the query, a tower for the item."""

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
    """A table model for the columns of the item and one for all others; they meet in nothing but their inner product.

    So items can be scored ahead of queries. Covington et al. 2016, "Deep neural networks for YouTube recommendations".

    shape: the rows; its outputs are split in two. numeric, categorical: the places of the item's numbers, and of its
    categories. hidden, embedding, dropout: of each tower, see `TableMLP`.

    >>> model = TwoTower(TableShape(numeric=3, categorical=0, buckets=2, outputs=8), numeric=[2], hidden=[4])
    >>> model(torch.randn(5, 3)).shape
    torch.Size([5, 8])
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
        """[u | v], (B, outputs)."""
        query, item = self._by_tower(inputs)
        return torch.cat([self.query(query), self.item(item)], dim=1)

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """What rows about to be learned add to the moments of both towers."""
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
