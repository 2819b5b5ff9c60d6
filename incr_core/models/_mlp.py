"""The built-in model for tables: a multilayer perceptron over normalised numbers and hashed categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models._id_counts import count_ids
from incr_core.models._id_table import IdTable
from incr_core.models._moments import Moments
from incr_core.models._text import TextBag
from incr_core.models._transformer_text import TransformerText

__all__ = ["TableMLP", "TableShape", "numbers_and_categories"]


@dataclass(frozen=True)
class TableShape:
    """Shape of encoded rows, for constructing a model.

    numeric: how many numbers a row has; categorical: how many categories; buckets: the hash buckets of each.
    outputs: how many numbers the objective wants. text: how many texts; slots: the words and pairs of each;
    text_buckets: the hash buckets of these. ids: how many ids; id_rows, id_after, id_unused: of the table of each (see
    `IdTable`).
    """

    numeric: int
    categorical: int
    buckets: int
    outputs: int
    text: int = 0
    slots: int = 0
    text_buckets: int = 0
    ids: int = 0
    id_rows: int = 0
    id_after: int = 1
    id_unused: int = 0


class TableMLP(nn.Module):
    """Normalises numbers, embeds categories, and applies hidden layers to both.

        x = [ (v - mean) / std, clipped to [-8, 8] | 1 where v is missing | E[h1(c)] + E[h2(c)] for each category ]

    mean and std are running moments that merge exactly between participants (`Moments`). A missing number becomes 0,
    the mean, and its indicator 1. Each category has two hashes, so two categories are confused only if both collide
    (hash embeddings: Svenstrup et al. 2017). Of texts, `TextBag` gives sums over words, to the layers and to the
    output. Each id has a row of `embedding` numbers in a table that grows (`IdTable`).

    shape: the rows. hidden: widths of the hidden layers; none gives a linear model. embedding: numbers per category.
    dropout: share of hidden units silenced while learning. sparse, averaged: of the tables of ids, see `IdTable`.
    transformer: what reads the texts in place of a `TextBag`.

    Example:
        >>> model = TableMLP(TableShape(numeric=2, categorical=1, buckets=16, outputs=1), hidden=[8])
        >>> inputs = {"numeric": torch.randn(3, 2), "categorical": torch.zeros(3, 1, 2, dtype=torch.int64)}
        >>> model(inputs).shape
        torch.Size([3, 1])

    Reference:
        Svenstrup et al. 2017 (hash embeddings).
    """

    draws_nothing: ClassVar[bool] = True

    def __init__(
        self,
        shape: TableShape,
        hidden: Sequence[int] = (128, 64),
        embedding: int = 8,
        dropout: float = 0.0,
        *,
        sparse: bool = False,
        averaged: bool = False,
        transformer: TransformerText | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.settles = False  # whether moments are fixed after the first rows, for layers that never learn again
        self.moments = Moments(shape.numeric)
        self.embedding: nn.Embedding | None = None
        if shape.categorical:
            self.embedding = nn.Embedding(shape.categorical * shape.buckets, embedding)
            nn.init.normal_(self.embedding.weight, std=0.1)
        self.text: TextBag | TransformerText | None = transformer
        if shape.text and transformer is None:
            self.text = TextBag(shape.text, shape.text_buckets, embedding, shape.outputs)
        of_text = 0 if self.text is None else self.text.width
        of_table = (shape.id_rows, embedding, shape.id_after, shape.id_unused)
        tables = [IdTable(*of_table, sparse=sparse, averaged=averaged) for _ in range(shape.ids)]
        self.tables = nn.ModuleList(tables)
        widths = [2 * shape.numeric + (shape.categorical + shape.ids) * embedding + of_text, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], shape.outputs))
        offsets = torch.arange(shape.categorical).reshape(-1, 1) * shape.buckets
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits or values, (B, outputs)."""
        numeric, categorical = numbers_and_categories(inputs)
        columns: list[Tensor] = []
        if self.shape.numeric:
            missing = numeric.isnan()
            values = self.moments.standardise(numeric).clamp(-8.0, 8.0)
            columns += [torch.where(missing, 0.0, values), missing.float()]
        if self.embedding is not None:
            assert categorical is not None
            found: Tensor = self.embedding(categorical + self.offsets)  # (B, C, 2, E)
            columns.append(found.sum(2).flatten(1))
        by_word = None
        if self.text is not None:
            assert isinstance(inputs, dict)
            deep, by_word = self.text(inputs["text"])
            columns.append(deep)
        if len(self.tables):
            assert isinstance(inputs, dict)
            columns += [table(inputs["ids"][:, place]) for place, table in enumerate(self.tables)]
        output: Tensor = self.layers(torch.cat(columns, dim=1))
        return output if by_word is None else output + by_word

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the moments, and the counts of their ids."""
        if self.settles and bool(self.moments.sums.any()):
            return {}
        measured = {"moments.sums": self.moments.measure(numbers_and_categories(inputs)[0])}
        if len(self.tables):
            assert isinstance(inputs, dict)
            measured |= count_ids(self.id_tables, inputs["ids"])
        return measured

    @property
    def id_tables(self) -> dict[str, IdTable]:
        """The table of each id, in the order of `features.ids`, by its name."""
        return {f"tables.{place}": table for place, table in enumerate(self.tables) if isinstance(table, IdTable)}


def numbers_and_categories(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """A batch's numbers (B, F), and its categories (B, C, 2) where it has any."""
    return (inputs["numeric"], inputs.get("categorical")) if isinstance(inputs, dict) else (inputs, None)
