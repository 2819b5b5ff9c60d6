"""Sparse gradients of embeddings with `sparse=True`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_dense"]


def as_dense(gradient: Tensor) -> Tensor:
    """Convert a sparse gradient to a dense one, with 0 for rows that were not looked up.

    Example:
        >>> as_dense(torch.tensor([[0.0], [2.0]]).to_sparse(1)).flatten()
        tensor([0., 2.])
    """
    if not gradient.is_sparse:
        return gradient
    found = gradient.coalesce()
    # `to_dense` of torch 2.13 loses a single row of a single number if it is an expanded one.
    return gradient.new_zeros(gradient.shape, layout=torch.strided).index_add_(0, found.indices()[0], found.values())
