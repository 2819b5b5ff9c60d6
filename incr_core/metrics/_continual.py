"""Continual-learning metrics of a T x T accuracy matrix.

Row t of R is the model after its t-th increment, and column i the score on the i-th task. Counting from zero, R[i, i]
is the score on a task just learned. Entries below the diagonal show retention of the task, entries above it the
performance before the task was learned. Any score works for which higher is better.

An entry that was not evaluated is NaN; metrics that use it become NaN. With fewer than two tasks, forgetting and
transfer are undefined: NaN.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from incr_core.errors import ArgumentError

__all__ = ["anytime_accuracy", "average_accuracy", "backward_transfer", "forgetting", "forward_transfer"]

Matrix = npt.ArrayLike


def average_accuracy(matrix: Matrix) -> float:
    """Return the mean score over all tasks after the last: mean_i R[T-1, i].

    Example:
        >>> average_accuracy([[1.0, 0.0], [0.5, 1.0]])
        0.75

    Reference:
        Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2 (ACC).
    """
    r = _square(matrix)
    return _mean(r[-1:].ravel())


def forgetting(matrix: Matrix) -> float:
    """Return the mean drop of old tasks from their best: mean_{i < T-1} (max_{t < T-1} R[t, i] - R[T-1, i]).

    It is negative if the last increment improved old tasks. The maximum covers all models before the last one,
    including those from before the task.

    Example:
        >>> forgetting([[1.0, 0.0, 0.0], [0.5, 0.75, 0.0], [0.5, 0.5, 1.0]])
        0.375

    Reference:
        Chaudhry et al., Riemannian walk (ECCV 2018).
    """
    r = _square(matrix)
    if len(r) < 2:
        return math.nan
    return _mean(r[:-1, :-1].max(axis=0) - r[-1, :-1])


def backward_transfer(matrix: Matrix) -> float:
    """Return the influence of later tasks on earlier ones: mean_{i < T-1} (R[T-1, i] - R[i, i]). Negative is
    forgetting.

    Example:
        >>> backward_transfer([[0.75, 0.0], [0.5, 1.0]])
        -0.25

    Reference:
        Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2 (BWT).
    """
    r = _square(matrix)
    return _mean((r[-1:] - np.diagonal(r)).ravel()[:-1])


def forward_transfer(matrix: Matrix, untrained: npt.ArrayLike) -> float:
    """Return the influence of earlier tasks on later ones: mean_{i > 0} (R[i-1, i] - b[i]).

    Args:
        matrix: R, (T, T).
        untrained: b, the score of the initial model on each task, (T,).

    Example:
        >>> forward_transfer([[1.0, 0.75], [1.0, 1.0]], untrained=[0.5, 0.5])
        0.25

    Reference:
        Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2 (FWT).
    """
    r, b = _square(matrix), np.asarray(untrained, dtype=np.float64)
    if b.shape != (len(r),):
        raise ArgumentError(f"untrained: expected a score for each of {len(r)} tasks, got shape {b.shape}")
    return _mean(np.diagonal(r, offset=1) - b[1:])


def anytime_accuracy(matrix: Matrix) -> float:
    """Return the mean over increments of the average accuracy on the tasks so far: mean_t mean_{i <= t} R[t, i].

    It distinguishes learners that end alike but differ on the way. Koh et al. take the same mean over rows instead of
    tasks, as the area under the accuracy curve.

    Example:
        >>> anytime_accuracy([[1.0, 0.0], [0.5, 0.5]])
        0.75

    Reference:
        Caccia et al., New insights on reducing abrupt representation change (ICLR 2022), "average anytime accuracy";
        Koh et al. (ICLR 2022).
    """
    r = _square(matrix)
    return _mean(np.array([row[: t + 1].mean() for t, row in enumerate(r)]))


def _square(matrix: Matrix) -> npt.NDArray[np.float64]:
    r = np.asarray(matrix, dtype=np.float64)
    if r.size == 0:
        return np.empty((0, 0))
    if r.ndim != 2 or r.shape[0] != r.shape[1]:
        raise ArgumentError(f"accuracy matrix: expected increments by tasks, (T, T), got shape {r.shape}")
    return r


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan
