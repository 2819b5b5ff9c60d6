"""Computation of rates from known outcomes, which are sorted once for any number of uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from incr_core.data.rates._outcomes import Index, Outcomes, summed
from incr_core.data.rates._rates import Questions, Rate, combined, series

__all__ = ["Lookup"]

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Lookup:
    """Rate features of known outcomes, from one history or several (`plus`).

    Args:
        rates: The rates of a `History`.
        outcomes: Its outcomes.
    """

    def __init__(self, rates: Sequence[Rate], outcomes: Sequence[Outcomes]) -> None:
        self.rates = tuple(rates)
        self._members = series(rates)
        self._pasts: list[tuple[_Series, ...]] = [(_Series(past),) for past in outcomes]

    def plus(self, newer: Lookup) -> Lookup:
        """Combine with other outcomes, without sorting either again."""
        both = Lookup(self.rates, ())
        both._pasts = [(*old, *new) for old, new in zip(self._pasts, newer._pasts, strict=True)]
        return both

    def keys(self, hashed: Mapping[str, np.ndarray[Any, np.dtype[np.uint64]]], count: int) -> Ints:
        """Return the keys (S, B) of `Questions` for B rows, given the hashes (B,) of each key column."""
        found = [combined((hashed[name] for name in self.rates[one[0]].by), count) for one in self._members]
        return np.array(found, dtype=np.uint64).reshape(len(found), count).view(np.int64)

    def features(self, rows: Questions, times: Ints) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return rate and log count of each rate, for rows predicted at `times` (B,): (B, 2 * rates) float32."""
        features = np.zeros((len(times), 2 * len(self.rates)), dtype=np.float32)
        for members, keys, pasts in zip(self._members, rows.keys, self._pasts, strict=True):
            asked = [(past.index, *past.index.places(keys)) for past in pasts]
            stops = [index.before(places, times) for index, places, _ in asked]
            for member in members:
                rate = self.rates[member]
                starts = None if rate.window_us is None else times - rate.window_us
                total, count = summed(
                    [
                        index.sums(index.before(places, starts), stop, present)
                        for (index, places, present), stop in zip(asked, stops, strict=True)
                    ]
                )
                prior: Any = rate.prior
                if prior is None:
                    nowhere = np.zeros_like(times)
                    overall = [past.overall for past in pasts]
                    edges = [(index.before(nowhere, starts), index.before(nowhere, times)) for index in overall]
                    all_total, all_count = summed(
                        [index.sums(*edge, True) for index, edge in zip(overall, edges, strict=True)]
                    )
                    prior = all_total / np.maximum(all_count, 1)
                features[:, 2 * member] = (total + rate.weight * prior) / (count + rate.weight)
                features[:, 2 * member + 1] = np.log1p(count)
        return features


class _Series:
    """The sorted outcomes of one series of rates: by key, and all together if the prior is the overall rate."""

    def __init__(self, past: Outcomes) -> None:
        self._past = past

    @cached_property
    def index(self) -> Index:
        return self._past.index()

    @cached_property
    def overall(self) -> Index:
        return replace(self._past, key=np.zeros_like(self._past.key)).index()
