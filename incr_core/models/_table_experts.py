"""The model `kind = "auto"` for tables: several experts over the same normalised row."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from incr_core.batch import Inputs
from incr_core.models._magnitudes import Magnitudes
from incr_core.models._mlp import TableShape, numbers_and_categories
from incr_core.models._moments import Moments
from incr_core.models._solved_experts import SolvedExperts

__all__ = ["LearnsFromSums", "TableExperts"]

Layer = TypeVar("Layer", nn.Linear, nn.Embedding)

CLIP = 8.0
"""Number of standard deviations at which a number is clipped."""

WILD = 5.0
"""Number of standard deviations at which a number's effect on the running mean and deviation is bounded."""

RANDOM_EMBEDDING = 4
"""Dimension of the fixed random embedding of categories, an input of the closed-form experts."""


@runtime_checkable
class LearnsFromSums(Protocol):
    """A model with a part that is solved from sums over rows and their targets."""

    def observe_labelled(self, inputs: Inputs, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the sums; `targets` (B, outputs) are numeric."""


class TableExperts(nn.Module):
    """Four predictions for each row, side by side: `objectives.Blend` trains and mixes them.

        x = [ (v - mean) / std, clipped to [-8, 8], 0 where v is missing | 1 where v is missing | `Magnitudes` of v ]
        output = [ MLP(x, embeddings) | W x + weights of categories | ridge(x) | ridge(x, random features) ]

    Mean and spread are moments that merge exactly, in which a number counts as at most five standard deviations of what
    was known before it: a single wild one moves them no further. That a number is missing, and its magnitude, have
    weights that begin at 0, so they cost nothing where nothing is missing or skewed. The linear part begins at 0. The
    ridges take no steps: they are solved from sums over rows that fade (`SolvedExperts`), to which a category is a few
    numbers drawn once for all.

    Args:
        shape: Shape of the rows; its outputs are those of all four experts.
        hidden: As for `TableMLP`.
        embedding: As for `TableMLP`.
        dropout: As for `TableMLP`.

    Example:
        >>> model = TableExperts(TableShape(numeric=2, categorical=1, buckets=16, outputs=4), hidden=[8])
        >>> inputs = {"numeric": torch.randn(4, 2), "categorical": torch.zeros(4, 1, 2, dtype=torch.int64)}
        >>> model(inputs).shape
        torch.Size([4, 4])
    """

    draws_nothing: ClassVar[bool] = True
    LEARNED: ClassVar[int] = 2
    SOLVED: ClassVar[int] = 2

    offsets: Tensor
    drawn: Tensor

    def __init__(
        self, shape: TableShape, hidden: Sequence[int] = (128, 64), embedding: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.shape = shape
        outputs = shape.outputs // (self.LEARNED + self.SOLVED)
        entries = shape.categorical * shape.buckets
        self.moments = Moments(shape.numeric)
        self.magnitudes = Magnitudes(shape.numeric)
        self.embedding = self.weights_of_categories = None
        if shape.categorical:
            self.embedding = nn.Embedding(entries, embedding)
            nn.init.normal_(self.embedding.weight, std=0.1)
            self.weights_of_categories = _zero(nn.Embedding(entries, outputs))
        widths = [shape.numeric + shape.categorical * embedding, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        self.more = _zero_linear(2 * shape.numeric, first.out_features, bias=False)
        self.linear = _zero_linear(3 * shape.numeric, outputs)
        drawn = RANDOM_EMBEDDING * shape.categorical
        varied = max(1, shape.numeric + drawn)  # of the other numbers most are 0
        self.solved = SolvedExperts(3 * shape.numeric + drawn, outputs, varied)
        # Drawn by a generator whose numbers numpy has promised to keep, so they are in no state.
        numbers = np.random.RandomState(0).standard_normal((entries, RANDOM_EMBEDDING))
        self.register_buffer("drawn", torch.from_numpy(numbers).float(), persistent=False)
        offsets = torch.arange(shape.categorical).reshape(-1, 1) * shape.buckets
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logits or values of each expert, (B, outputs); of the closed-form experts, least-squares outputs or
        values.
        """
        values, more, categories = self._normalised(inputs)
        linear = self.linear(torch.cat([values, more], dim=1))
        deep = [values]
        if self.embedding is not None and self.weights_of_categories is not None:
            assert categories is not None
            deep.append(self.embedding(categories).sum(2).flatten(1))  # (B, C, 2, E)
            linear = linear + self.weights_of_categories(categories).sum((1, 2))
        hidden = self.layers[0](torch.cat(deep, dim=1)) + self.more(more)
        for layer in list(self.layers)[1:]:
            hidden = layer(hidden)
        # While gradients are enabled, the output of the closed-form experts is not needed, because no step changes
        # them.
        if torch.is_grad_enabled():
            return torch.cat([hidden, linear, *[torch.zeros_like(linear)] * self.SOLVED], dim=1)
        return torch.cat([hidden, linear, self.solved(self._numbers(inputs)).to(linear.dtype)], dim=1)

    def observe(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to moments and magnitudes."""
        numeric, _ = numbers_and_categories(inputs)
        mean, std = self.moments.scale()
        known = self.moments.sums[0] >= 2
        reach = torch.where(known, WILD * std, torch.inf)
        bounded = torch.clamp(numeric, mean - reach, mean + reach)
        sizes = self.magnitudes.measure(numeric, bounded)
        return {
            "moments.sums": self.moments.measure(bounded),
            **{f"magnitudes.{name}": value for name, value in sizes.items()},
        }

    def observe_labelled(self, inputs: Inputs, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the additions of rows about to be learned to the sums. targets: (B, outputs)."""
        added = self.solved.measure(self._numbers(inputs), targets, weights)
        return {f"solved.{name}": value for name, value in added.items()}

    def _normalised(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
        numeric, categorical = numbers_and_categories(inputs)
        missing = numeric.isnan()
        values = self.moments.standardise(numeric).clamp(-CLIP, CLIP)
        categories = None if categorical is None else categorical + self.offsets
        more = torch.cat([missing.float(), self.magnitudes(numeric)], dim=1)
        return torch.where(missing, 0.0, values), more, categories

    def _numbers(self, inputs: Inputs) -> Tensor:
        """Return rows as numbers of about unit scale, with fixed random embeddings of categories."""
        values, more, categories = self._normalised(inputs)
        columns = [values, more]
        if categories is not None:
            columns.append(nn.functional.embedding(categories, self.drawn).sum(2).flatten(1) * 0.5**0.5)
        return torch.cat(columns, dim=1)


def _zero_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer of zeros, without torch's warning about a layer without inputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return _zero(nn.Linear(inputs, outputs, bias=bias))


def _zero(layer: Layer) -> Layer:
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
