"""Rows as named columns, the form in which memories hold them, and the division of a capacity among classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from incr_core.batch import Batch
from incr_core.errors import ArgumentError

__all__ = ["Columns", "columns_of", "even_shares", "one_class_a_row", "to_batch"]

Columns = dict[str, torch.Tensor]


def columns_of(batch: Batch) -> Columns:
    """Convert a batch to flat named columns, without the fields that are None.

    Example:
        >>> sorted(columns_of(Batch({"a": torch.zeros(1)}, torch.zeros(1))))
        ['inputs/a', 'targets']
    """
    inputs = batch.inputs
    if isinstance(inputs, dict):
        columns = {f"inputs/{name}": value for name, value in inputs.items()}
    else:
        columns = {"inputs": inputs}
    columns["targets"] = batch.targets
    others = {"weights": batch.weights, "task": batch.task, "rows": batch.row_ids}
    return columns | {name: value for name, value in others.items() if value is not None}


def to_batch(columns: Mapping[str, torch.Tensor]) -> Batch:
    """Convert columns to a batch, the inverse of `columns_of`. Unknown columns are dropped."""
    inputs: Any = columns.get("inputs")
    if inputs is None:
        inputs = {name[7:]: value for name, value in columns.items() if name.startswith("inputs/")}
    return Batch(inputs, columns["targets"], columns.get("weights"), columns.get("task"), columns.get("rows"))


def one_class_a_row(memory: str, targets: torch.Tensor) -> None:
    """Raise an ArgumentError if rows have several targets, because such rows belong to no single class.

    Example:
        >>> one_class_a_row("balanced", torch.zeros(3))
    """
    if targets.dim() != 1:
        raise ArgumentError(
            f"memory: expected one target a row for {memory!r}, got {tuple(targets.shape[1:])}; "
            "use the memory reservoir or window"
        )


def even_shares(counts: list[int], capacity: int) -> list[int]:
    """Divide `capacity` evenly among classes of `counts` rows; slots that one class cannot fill go to the others.

    Example:
        >>> even_shares([100, 3, 50], 10)
        [4, 3, 3]
    """
    shares = [0] * len(counts)
    open_classes = [index for index, count in enumerate(counts) if count > 0]
    while capacity > 0 and open_classes:
        each, left = divmod(capacity, len(open_classes))
        for place, index in enumerate(open_classes):
            given = min(each + (place < left), counts[index] - shares[index])
            shares[index] += given
            capacity -= given
        open_classes = [index for index in open_classes if shares[index] < counts[index]]
    return shares
