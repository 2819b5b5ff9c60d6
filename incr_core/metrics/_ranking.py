"""Ranking metrics: recall and NDCG at several cutoffs."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from incr_core.metrics._sums import Array, Statistics, floats, on_grid, ratio, weights

__all__ = ["catalogue_metrics", "catalogue_statistics", "ranking_metrics", "ranking_statistics"]

CUTOFFS = (1, 5, 10, 20)  # the k of recall@k and ndcg@k


def ranking_statistics(scores: Tensor, relevant: Tensor, weight: Tensor | None = None) -> Statistics:
    """Return additive statistics of K candidates ranked by scores. Rows without a relevant candidate are skipped.

    Args:
        scores: Scores of the candidates.
        relevant: Place of the one relevant candidate, or a grade for each candidate, zero for irrelevant.
        weight: Row weights. None counts each row once.

    Shapes:
        scores: (n, K). relevant: (n,) or (n, K). weight: (n,).
    """
    s, w = floats(scores), weights(weight, len(scores))
    if relevant.ndim == 1:
        grade = np.zeros_like(s)
        grade[np.arange(len(s)), relevant.detach().cpu().numpy()] = 1.0
    else:
        grade = floats(relevant)
    w = w * (grade > 0).any(1)
    order = np.argsort(-s, axis=1, kind="stable")
    first, last = _ties(np.take_along_axis(s, order, 1))
    grade = np.take_along_axis(grade, order, 1)
    ideal = -np.sort(-grade, axis=1)
    gain = 1.0 / np.log2(np.arange(s.shape[1]) + 2.0)
    broken = 0.0 * s.sum(1)  # NaN for a row with a NaN score
    sums = []
    for k in CUTOFFS:
        inside = np.arange(s.shape[1]) < k
        hits = (_mean_over_ties(inside, first, last) * (grade > 0)).sum(1) / (grade > 0).sum(1).clip(1)
        gained = (_mean_over_ties(gain * inside, first, last) * grade).sum(1)
        best = (ideal * gain * inside).sum(1)
        for term in (hits, gained / np.where(best > 0, best, 1.0)):
            sums.append(on_grid((term + broken) * w).sum())
    return {"sums": np.array([*sums, w.sum()])}


def ranking_metrics(statistics: Statistics) -> dict[str, float]:
    """Return recall@k and ndcg@k for k in 1, 5, 10, 20, with linear gain.

    Candidates of equal score share the mean of their places' gains. A model with constant scores therefore gets the
    value of chance, wherever the relevant candidate is listed.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.2, 0.1]])
        >>> metrics = ranking_metrics(ranking_statistics(scores, torch.tensor([2, 0])))
        >>> metrics["recall@1"], metrics["recall@5"], metrics["ndcg@5"]
        (0.5, 1.0, 0.8154...)

    Reference:
        Jarvelin and Kekalainen 2002.
    """
    names = [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg")]
    *sums, rows = statistics.get("sums", np.zeros(len(names) + 1)).tolist()
    return {name: ratio(value, rows) for name, value in zip(names, sums, strict=True)}


def catalogue_statistics(standing: Tensor, weight: Tensor | None = None) -> Statistics:
    """The places of items in a catalogue, each row `weight` (n,) times.

    standing: (n, 5): items ranked higher than the row's own, items that tie with it; the same two by popularity; and
    how many items there are.
    """
    s, w = floats(standing), weights(weight, len(standing))
    sums = []
    for higher, ties in ((s[:, 0], s[:, 1]), (s[:, 2], s[:, 3])):
        for k in CUTOFFS:
            inside = np.clip(np.stack([higher, higher + ties + 1]), 0, k)
            hits = (inside[1] - inside[0]) / (ties + 1)
            earned = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
            places = np.nan_to_num(inside).astype(np.int64)
            gained = (earned[places[1]] - earned[places[0]]) / (ties + 1)
            sums += [on_grid(hits * w).sum(), on_grid((gained + 0.0 * hits) * w).sum()]
    return {"sums": np.array([*sums, on_grid(s[:, 4] * w).sum(), w.sum()])}


def catalogue_metrics(statistics: Statistics) -> dict[str, float]:
    """recall@k and ndcg@k of one relevant item among the whole catalogue, for k in 1, 5, 10, 20, of the model and of a
    ranking by popularity; and the mean size of the catalogue. Items of equal score share what their places earn.

    >>> import torch
    >>> metrics = catalogue_metrics(catalogue_statistics(torch.tensor([[0.0, 1.0, 30.0, 0.0, 50.0]])))
    >>> metrics["recall@1"], metrics["popularity recall@10"], metrics["items"]
    (0.5, 0.0, 50.0)
    """
    names = [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg")]
    names += [f"popularity {name}" for name in names] + ["items"]
    *sums, rows = statistics.get("sums", np.zeros(len(names) + 1)).tolist()
    return {name: ratio(value, rows) for name, value in zip(names, sums, strict=True)}


def _ties(sorted_scores: Array) -> tuple[Array, Array]:
    """Return, for each place (n, K), the first place of its run of equal scores and the place after the last."""
    rows, places = sorted_scores.shape
    starts = np.ones((rows, places), dtype=bool)
    starts[:, 1:] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
    ends = np.ones((rows, places), dtype=bool)
    ends[:, :-1] = starts[:, 1:]
    place = np.arange(places)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place + 1, places)[:, ::-1], axis=1)[:, ::-1]
    return first, last


def _mean_over_ties(earned: Array, first: Array, last: Array) -> Array:
    """Return the gain of each place (K,), averaged over runs of equal scores: (n, K)."""
    total = np.concatenate([[0.0], np.cumsum(earned)])
    mean: Array = (total[last] - total[first]) / (last - first)
    return mean
