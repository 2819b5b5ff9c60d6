"""The built-in model for ranking: separate towers for query and item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models._id_table import IdTable
from incr_core.models._mlp import TableMLP, TableShape

__all__ = ["TwoTower"]

AT_ONCE = 1 << 22
"""Scores of catalogue items that are compared at one time."""

KINDS = ("numeric", "categorical", "ids")


class TwoTower(nn.Module):
    """A table model for the columns of the item and one for all others, combined only by their inner product.

    Items can therefore be scored ahead of queries.

    With `ranks`, an item is its id, and the table of that id is the catalogue. Answers (without gradients) then say,
    besides both vectors, where the row's own item stands in the catalogue:

        [u | v | items of higher score, of equal score | items seen more often, as often | items]

    Learning against the other items of a batch estimates by how much an item is likelier for this query than for all.
    So with `ranks` the last number of v is 0 while it learns, and the log of the item's share of all rows when it
    answers, and that of u is 1: the logQ correction of Yi et al. 2019, section 3, moved from the loss to the answer.

    Args:
        shape: the rows; its outputs are split in two.
        item: the places of the item's columns among the "numeric", the "categorical" and the "ids".
        hidden, embedding, dropout: of each tower, see `TableMLP`.
        ranks: whether answers say where an item stands in the catalogue.
        sparse, averaged: of tables of ids, see `IdTable`.

    Example:
        >>> model = TwoTower(TableShape(numeric=3, categorical=0, buckets=2, outputs=8), {"numeric": [2]}, hidden=[4])
        >>> model(torch.randn(5, 3)).shape
        torch.Size([5, 8])
    """

    draws_nothing: ClassVar[bool] = True

    item_numeric: Tensor
    item_categorical: Tensor
    item_ids: Tensor
    query_numeric: Tensor
    query_categorical: Tensor
    query_ids: Tensor

    def __init__(
        self,
        shape: TableShape,
        item: Mapping[str, Sequence[int]],
        hidden: Sequence[int] = (128, 64),
        embedding: int = 8,
        dropout: float = 0.0,
        *,
        ranks: bool = False,
        sparse: bool = False,
        averaged: bool = False,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.tells_standing = True
        counts = {"numeric": shape.numeric, "categorical": shape.categorical, "ids": shape.ids}
        for tower, wanted in (("item", True), ("query", False)):
            found = {
                kind: [place for place in range(count) if (place in item.get(kind, ())) == wanted]
                for kind, count in counts.items()
            }
            for kind, places in found.items():
                self.register_buffer(f"{tower}_{kind}", torch.tensor(places, dtype=torch.int64), persistent=False)
            part = replace(shape, outputs=shape.outputs // 2, **{kind: len(places) for kind, places in found.items()})
            self.add_module(tower, TableMLP(part, hidden, embedding, dropout, sparse=sparse, averaged=averaged))
        self.item: TableMLP
        self.query: TableMLP

    def forward(self, inputs: Inputs) -> Tensor:
        """[u | v], (B, outputs), followed by the standing of the item, (B, 5), if `tells_standing`."""
        query, item = self._by_tower(inputs)
        u, v = self.query(query), self.item(item)
        if not self.ranks:
            return torch.cat([u, v], dim=1)
        assert isinstance(item, dict)
        table = self.catalogue
        if torch.is_grad_enabled():
            hidden = torch.zeros_like(u[:, :1])
            return torch.cat([u[:, :-1], hidden, v[:, :-1], hidden], dim=1)
        rows, items = table.rows_of(item["ids"][:, 0]), table.in_use()
        u = torch.cat([u[:, :-1], torch.ones_like(u[:, :1])], dim=1)
        v = torch.cat([v[:, :-1], self._popularity(table, rows)], dim=1)
        if not self.tells_standing:
            return torch.cat([u, v], dim=1)
        all_items = {"numeric": u.new_zeros(len(items), 0), "ids": table.keys[items][:, None]}
        others = torch.cat([self.item(all_items)[:, :-1], self._popularity(table, items)], dim=1)
        return torch.cat([u, v, self._standing(u, rows, others, items).to(u)], dim=1)

    def _popularity(self, table: IdTable, rows: Tensor) -> Tensor:
        """log((n + 1) / (all + 1)) of rows, (B, 1); of row 0, which is no item, n = 0."""
        seen = torch.where(rows > 0, table.seen[rows], 0)
        return ((seen + 1).double() / (table.clock + 1)).log().float()[:, None]

    def _standing(self, u: Tensor, rows: Tensor, others: Tensor, items: Tensor) -> Tensor:
        """Items of the catalogue that score higher than the own and as high, without itself; the same by how often they
        were seen; how many items there are: (B, 5). An item that is not in the catalogue stands behind all."""
        seen, found = self.catalogue.seen[items], []
        step = max(1, AT_ONCE // max(1, len(items)))
        for query, row in zip(torch.split(u, step), torch.split(rows, step), strict=True):
            scores, known = query @ others.t(), row > 0
            place = items == row[:, None]
            mine = torch.where(place, scores, -torch.inf).amax(1, keepdim=True) if len(items) else scores
            times = torch.where(known, self.catalogue.seen[row], -1)[:, None]
            columns = [(scores > mine).sum(1), (scores == mine).sum(1) - 1, (seen > times).sum(1)]
            columns += [(seen == times).sum(1) - 1, torch.full_like(row, len(items))]
            counts = torch.stack(columns, dim=1)
            behind = torch.tensor([1, 0, 1, 0, 1], device=row.device) * len(items)
            found.append(torch.where(known[:, None], counts, behind))
        return torch.cat(found)

    @contextmanager
    def without_standing(self) -> Iterator[None]:
        """Inside, outputs are [u | v] alone: scoring many items needs no standing of each."""
        self.tells_standing = False
        try:
            yield
        finally:
            self.tells_standing = True

    @property
    def catalogue(self) -> IdTable:
        """The table of the items."""
        return next(iter(self.item.id_tables.values()))

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the moments of both towers, and their id counts."""
        query, item = self._by_tower(inputs)
        return {
            **{f"query.{name}": value for name, value in self.query.observe(query).items()},
            **{f"item.{name}": value for name, value in self.item.observe(item).items()},
        }

    @property
    def id_tables(self) -> dict[str, IdTable]:
        """The table of each id, in the order of `features.ids`, by its name."""
        found = {}
        for tower, part, places in (("query", self.query, self.query_ids), ("item", self.item, self.item_ids)):
            for place, (name, table) in zip(places.tolist(), part.id_tables.items(), strict=True):
                found[place] = (f"{tower}.{name}", table)
        return dict(found[place] for place in sorted(found))

    def _by_tower(self, inputs: Inputs) -> tuple[Inputs, Inputs]:
        if not isinstance(inputs, dict):
            return inputs.index_select(1, self.query_numeric), inputs.index_select(1, self.item_numeric)
        query, item = (
            {kind: inputs[kind].index_select(1, self.get_buffer(f"{tower}_{kind}")) for kind in KINDS if kind in inputs}
            for tower in ("query", "item")
        )
        return query, item
