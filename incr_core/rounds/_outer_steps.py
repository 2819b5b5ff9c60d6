"""Catalogue of the outer steps, by their names in job files."""

from __future__ import annotations

from incr_core._util import Catalogue
from incr_core.rounds._adaptive_outer import Adagrad, Adam, Yogi
from incr_core.rounds._outer import Mean, Momentum, Nesterov, Outer

__all__ = ["OUTERS"]

OUTERS: Catalogue[type[Outer]] = Catalogue(
    "an outer step",
    {"mean": Mean, "momentum": Momentum, "nesterov": Nesterov, "adam": Adam, "adagrad": Adagrad, "yogi": Yogi},
    "incr.outer_steps",
)
