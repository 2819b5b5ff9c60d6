"""Class weights for rare classes, and the correction of predictions for them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from incr_core._util import fraction, positive
from incr_core.errors import ArgumentError
from incr_core.models import freshness

__all__ = ["Balance"]


class Balance(nn.Module):
    """Class weights and the matching shift of predictions, from counts of labels.

    With n_c rows of class c learned so far, of C classes that occurred, and row weights as usual:

        f_c = n_c^-s * sum_k n_k / sum_k n_k^(1-s)          loss of a row = f_y l, with f_y 1 on average
        p_c ~ softmax(output)_c / f_c                       prior = "stream"
        p_c ~ softmax(output)_c / (f_c n_c)                 prior = "uniform"

    A model that learns with these weights answers as if class c had the share n_c f_c of all rows. Dividing by f_c
    gives probabilities for the class shares of the stream (Saerens et al. 2002). Dividing by n_c as well gives
    probabilities for equal class shares, whose largest maximises macro recall (Menon et al. 2021, equation 9). At
    strength 0 all weights are 1.

    Counts are additive statistics over all participants. They are exact in any order and split, and all participants
    have them before they learn a row of the increment.

    Args:
        classes: Number of classes.
        strength: s, from 0 (all rows count alike) to 1 (all classes do).
        prior: The class shares that predictions assume.
        half_life: Rows after which a label counts half, for class shares that change. None: never.

    Shapes:
        counts: (classes,), float64.

    Raises:
        ArgumentError: An argument is out of its range.

    Example:
        >>> balance = Balance(2, strength=1.0)
        >>> for name, value in balance.observe(torch.tensor([0, 0, 0, 1])).items():
        ...     _ = balance.get_buffer(name).add_(value)
        >>> [round(float(weight), 3) for weight in balance.weights()]
        [0.667, 2.0]

    Reference:
        King and Zeng 2001, "Logistic regression in rare events data", section 4; Menon et al. 2021, "Long-tail learning
        via logit adjustment" (arXiv 2007.07314).
    """

    merge: ClassVar[dict[str, str]] = {"counts": "sum", "rows_before": "sum"}
    draws_nothing: ClassVar[bool] = True
    counts: Tensor
    rows_before: Tensor

    def __init__(
        self,
        classes: int,
        strength: float = 0.5,
        prior: Literal["stream", "uniform"] = "stream",
        half_life: float | None = None,
    ) -> None:
        super().__init__()
        if prior not in ("stream", "uniform"):
            raise ArgumentError(f'balance.prior: expected "stream" or "uniform", got {prior!r}; name one of them')
        self.strength = fraction("balance.strength", strength)
        self.prior = prior
        self.half_life = None if half_life is None else positive("balance.half_life", half_life)
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("rows_before", torch.zeros((), dtype=torch.float64))

    def observe(self, classes: Tensor) -> dict[str, Tensor]:
        """Return the additions of labels (n,) about to be learned to `counts` and `rows_before`."""
        counts = torch.bincount(classes.long(), minlength=len(self.counts)).double()
        if self.half_life is not None:
            counts = counts * freshness(self.rows_before, self.half_life)
        rows = torch.tensor(float(len(classes)), dtype=torch.float64, device=counts.device)
        return {"counts": counts, "rows_before": rows}

    def weights(self) -> Tensor:
        """f_c, (classes,) float64; 1 for classes that have not occurred."""
        known = self.counts > 0
        of_all = torch.where(known, self.counts, 0.0)
        powers = torch.where(known, of_all.clamp(min=1e-300).pow(1 - self.strength), 0.0).sum()
        scale = of_all.sum() / powers.clamp(min=1e-300)
        return torch.where(known, of_all.clamp(min=1e-300).pow(-self.strength) * scale, 1.0)

    def of_rows(self, classes: Tensor) -> Tensor:
        """f_y of each row, (n,) float32."""
        return self.weights().float()[classes.long()]

    def learned_shift(self) -> Tensor:
        """log f_c, (classes,): the shift of log-odds by learning with the weights."""
        return self.weights().log().float()

    def predicted_shift(self) -> Tensor:
        """The shift, (classes,), that is subtracted from the output of each class for predictions."""
        shift = self.learned_shift()
        if self.prior == "uniform":
            shares = self.counts / self.counts.sum().clamp(min=1e-300)
            shift = shift + torch.where(self.counts > 0, shares.clamp(min=1e-300), 1.0).log().float()
        return shift

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        life = "" if self.half_life is None or math.isinf(self.half_life) else f", half_life={self.half_life:g}"
        return f"classes={len(self.counts)}, strength={self.strength:g}, prior={self.prior!r}{life}"
