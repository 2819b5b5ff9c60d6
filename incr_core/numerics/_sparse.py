"""Sparse gradients, which embeddings with `sparse=True` have."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_dense"]


def as_dense(gradient: Tensor) -> Tensor:
    """A sparse gradient with all rows, 0 where none was looked up; a dense one as it is.

    >>> as_dense(torch.tensor([[0.0], [2.0]]).to_sparse(1)).flatten()
    tensor([0., 2.])
    """
    if not gradient.is_sparse:
        return gradient
    found = gradient.coalesce()
    # Not by `to_dense`, which in torch 2.13 loses a single row of a single number where it is an expanded one.
    return gradient.new_zeros(gradient.shape, layout=torch.strided).index_add_(0, found.indices()[0], found.values())
