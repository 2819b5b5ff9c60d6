"""Ridge regression from sums to which rows can be added, and from which they can be subtracted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

__all__ = ["Ridge", "RidgeSums"]

PANEL = 256
"""Columns of the Gram matrix that are computed and stored together."""

BLOCK = 1024
"""Rows whose products are summed in float32; the sums are exact if features are levels (`LEVELS`)."""


class Ridge(NamedTuple):
    """A solution: predictions are x weight + bias, with weight (F, K) and bias (K); float64.

    Attributes:
        unexplained: Fraction of the targets' variance that it leaves unexplained on the summed rows, (K).
    """

    weight: Tensor
    bias: Tensor
    unexplained: Tensor


class RidgeSums(nn.Module):
    """Sums over rows for ridge regression; no row is stored.

        count += sum_i w_i        features += sum_i w_i x_i        targets += sum_i w_i y_i
        gram += sum_i w_i x_i x_i^T        cross += sum_i w_i x_i y_i^T        squares += sum_i w_i y_i^2

    Sums of participants add up to those of all rows. Rows can be added in any order, and subtracted again: the result
    equals the sums without them. With features in integer levels (`RandomFeatures`), integer targets and no weights
    this is exact, up to 2^53; otherwise to rounding.

    Of the symmetric `gram`, the panels on and below the diagonal are stored, one after the other: 17 MB for 2,000
    features, 66 MB for 4,000, in float64.

    Args:
        features: F.
        targets: K.

    Example:
        >>> sums = RidgeSums(1, 1)
        >>> sums.add(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> [round(float(value), 3) for value in sums.solve(1e-6)[:2]]
        [2.0, 1.0]
        >>> sums.add(torch.tensor([[2.0]]), torch.tensor([[5.0]]), sign=-1)
        >>> sums.count
        tensor(2., dtype=torch.float64)
    """

    draws_nothing: ClassVar[bool] = True
    merge: ClassVar[dict[str, str]] = dict.fromkeys(("count", "features", "targets", "gram", "cross", "squares"), "sum")

    count: Tensor
    features: Tensor
    targets: Tensor
    gram: Tensor
    cross: Tensor
    squares: Tensor

    def __init__(self, features: int, targets: int) -> None:
        super().__init__()
        starts = range(0, features, PANEL)
        self._spans = [(start, min(start + PANEL, features)) for start in starts]
        shapes = {
            "count": (),
            "features": (features,),
            "targets": (targets,),
            "gram": (sum((stop - start) * stop for start, stop in self._spans),),
            "cross": (features, targets),
            "squares": (targets,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def of(cls, sums: Mapping[str, Tensor]) -> Self:
        """Create an object with copies of these sums, by name."""
        found = cls(*sums["cross"].shape)
        for name in cls.merge:
            setattr(found, name, sums[name].double().clone())
        return found

    @torch.no_grad()
    def add(self, features: Tensor, targets: Tensor, weights: Tensor | None = None, sign: int = 1) -> None:
        """Add rows to the sums.

        Args:
            features: Their features.
            targets: Their targets.
            weights: Their weights; None counts each row once.
            sign: -1 subtracts rows that were added before.

        Shapes:
            features: (n, F). targets: (n, K). weights: (n,).
        """
        for start in range(0, len(features), BLOCK):
            x, y = features[start : start + BLOCK], targets[start : start + BLOCK].double()
            if weights is None:
                weighed, mass = x, torch.full((len(x),), 1.0, dtype=torch.float64, device=x.device)
            else:  # weighted products are not integers
                x, mass = x.double(), weights[start : start + BLOCK].double()
                weighed = x * mass[:, None]
            self.count += sign * mass.sum()
            self.features += sign * (mass @ x.double())
            self.targets += sign * (mass @ y)
            self.cross += sign * (weighed.double().t() @ y)
            self.squares += sign * (mass @ y.square())
            for (first, last), panel in self._panels():
                panel.add_(weighed[:, first:last].t() @ x[:, :last], alpha=sign)

    @torch.no_grad()
    def fade(self, factor: float | Tensor) -> None:
        """Multiply the weight of all rows so far by `factor`."""
        for value in self.buffers():
            value *= factor

    @torch.no_grad()
    def solve(self, penalty: float, features: int | None = None) -> Ridge:
        """argmin sum_i w_i |y_i - x_i W - b|^2 + penalty |W|^2, where b is not penalised; of no rows, zeros.

            m = features / count        W = (gram - count m m^T + penalty I)^-1 (cross - m targets^T)        b = y - m W

        By a Cholesky factor, F^3 / 3 steps. A penalty that is too small for float64 is raised tenfold until it is not.

        features: number of features to use, the first ones. None: all.
        """
        count, size = self.count.clamp(min=1e-300), len(self.features) if features is None else features
        total = self.features[:size]
        mean, target = total / count, self.targets / count
        gram = torch.zeros(size, size, dtype=torch.float64, device=mean.device)
        for (first, last), panel in self._panels():
            if first < size:
                gram[first:last, :last] = panel[: size - first, :size]
        gram.addr_(total, mean, alpha=-1.0)  # only the part below the diagonal is read
        cross = torch.addr(self.cross[:size], total, target, alpha=-1.0)
        diagonal, penalised = gram.diagonal(), 0.0
        while True:
            diagonal += penalty - penalised
            factor, failed = torch.linalg.cholesky_ex(gram)
            if not int(failed) or not diagonal.sum().isfinite():  # non-finite values appear in the result
                break
            penalised, penalty = penalty, 10.0 * penalty
        weight = torch.cholesky_solve(cross, factor)
        spread = self.squares - self.targets * target
        left = spread - (2.0 * weight * cross).sum(0) + (weight * (cross - penalty * weight)).sum(0)
        known = spread > 1e-12 * (self.squares + 1e-300)
        return Ridge(weight, target - mean @ weight, torch.where(known, left / spread, 0.0).clamp(0.0, 1.0))

    def _panels(self) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Yield the row range of each panel of the Gram matrix, and its storage (last - first, last)."""
        place = 0
        for first, last in self._spans:
            size = (last - first) * last
            yield (first, last), self.gram[place : place + size].view(last - first, last)
            place += size
