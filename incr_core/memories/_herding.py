"""Herding: rows whose mean activation is close to the mean of their class."""

from __future__ import annotations

import torch
from torch import Tensor

from incr_core.memories._base import Memory
from incr_core.memories._columns import Columns, even_shares

__all__ = ["Herding", "herd"]


class Herding(Memory):
    """Rows of each class whose mean approximates the class mean (herding, iCaRL algorithms 4 and 5).

    Every class has an even share of the capacity; slots that a rare class cannot fill go to the other classes. Rows are
    stored in the order in which they were chosen, so that a smaller share keeps the first rows.

    Args:
        capacity: Number of rows, or a size such as "64MB".

    Example:
        >>> memory = Herding(2)
        >>> rows = {"targets": torch.tensor([0, 0, 0, 1])}
        >>> memory.choose(rows, torch.tensor([[0.0], [1.1], [2.0], [9.0]]))
        >>> memory.size, memory.rows_held()["targets"].tolist()
        (2, [0, 1])

    Reference:
        Rebuffi et al. 2017, iCaRL.
    """

    def choose(self, columns: Columns, activations: Tensor) -> None:
        """Replace the rows held by the best of the candidates.

        Args:
            columns: The candidates.
            activations: Their penultimate activations.

        Shapes:
            columns: (n, ...) each. activations: (n, d).
        """
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
    """Choose `count` rows greedily so that the mean of the chosen rows stays closest to the mean of all.

        p_k = argmin_i | mu - (f_i + sum_{j<k} f_{p_j}) / k |

    Shapes:
        activations: (n, d). Returns distinct row numbers in the order chosen, (min(count, n),).

    Example:
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
