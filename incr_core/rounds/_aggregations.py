"""Catalogue of the aggregations, by their names in job files."""

from __future__ import annotations

from incr_core._util import Catalogue
from incr_core.rounds._aggregation import Aggregation, Krum, Median, MultiKrum, TrimmedMean, WeightedMean
from incr_core.rounds._weighted_steps import FedExP, FedNova, QFedAvg

__all__ = ["AGGREGATIONS"]

AGGREGATIONS: Catalogue[type[Aggregation]] = Catalogue(
    "an aggregation",
    {
        "mean": WeightedMean,
        "fednova": FedNova,
        "qfedavg": QFedAvg,
        "fedexp": FedExP,
        "trimmed_mean": TrimmedMean,
        "median": Median,
        "krum": Krum,
        "multi_krum": MultiKrum,
    },
    "incr.aggregations",
)
