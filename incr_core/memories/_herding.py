"""Rows whose mean feature is close to their class's."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares

__all__ = ["Herding", "herd"]


class Herding(Memory):
    """The rows of each class that stand for its mean: herding of Rebuffi et al. 2017 (iCaRL, algorithms 4 and 5).

    Every class has an even share of the capacity; what a rare class does not fill goes to the others. Its rows lie
    in the order they were chosen, so that a smaller share keeps the first ones.

    >>> memory = Herding(2)
    >>> rows = {"targets": torch.tensor([0, 0, 0, 1])}
    >>> memory.choose(rows, torch.tensor([[0.0], [1.1], [2.0], [9.0]]))
    >>> memory.size, memory.rows_held()["targets"].tolist()
    (2, [0, 1])
    """

    def choose(self, columns: Columns, activations: Tensor) -> None:
        """Replace what is held by the best of the candidates `columns`, (n, ...), whose activations are (n, d)."""
        self._allocate(columns)
        labels, which, counts = torch.unique(columns["targets"], return_inverse=True, return_counts=True)
        shares = even_shares(counts.tolist(), self.capacity)
        chosen = []
        for place, share in zip(range(len(labels)), shares, strict=True):
            members = (which == place).nonzero().flatten()
            chosen.append(members[herd(activations[members], share)])
        keep = torch.cat(chosen)
        fresh = {name: column.index_select(0, keep) for name, column in columns.items()}
        self._write(torch.arange(len(keep), device=keep.device), fresh)
        self.size = len(keep)


def herd(activations: Tensor, count: int) -> Tensor:
    """Choose `count` rows one after another so that the mean of those chosen stays closest to the mean of all.

        p_k = argmin_i | mu - (f_i + sum_{j<k} f_{p_j}) / k |

    activations: (n, d). Returns their places, (count,), in the order chosen; none twice.

    >>> herd(torch.tensor([[0.0], [1.1], [3.0]]), 2).tolist()
    [1, 2]
    """
    mean = activations.mean(0)
    total = torch.zeros_like(mean)
    barred = torch.zeros(len(activations), device=activations.device)
    places = []
    for k in range(1, min(count, len(activations)) + 1):
        distance = (mean * k - total - activations).square().sum(1) + barred
        place = distance.argmin()
        places.append(place)
        total = total + activations[place]
        barred[place] = torch.inf
    return torch.stack(places) if places else torch.zeros(0, dtype=torch.long, device=activations.device)
