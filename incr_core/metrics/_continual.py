"""How much was learned, kept and passed on, read off a T x T accuracy matrix.

Row t of R is the model after its t-th increment, column i the score on the i-th task: R[t, i] is one
evaluation. Counting from zero, R[i, i] is a task just learned, what lies below the diagonal is what is kept
of it, and what lies above is what the model could do before it saw the task. Any score where higher is
better will do.

An entry that was not evaluated is NaN, and makes NaN what needs it. Fewer than two tasks leave forgetting
and transfer undefined: NaN.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from incr_core.errors import ArgumentError

__all__ = ["anytime_accuracy", "average_accuracy", "backward_transfer", "forgetting", "forward_transfer"]

Matrix = npt.ArrayLike


def average_accuracy(matrix: Matrix) -> float:
    """Mean score over all tasks, after the last: mean_i R[T-1, i].

    ACC of Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2.

    >>> average_accuracy([[1.0, 0.0], [0.5, 1.0]])
    0.75
    """
    r = _square(matrix)
    return _mean(r[-1:].ravel())


def forgetting(matrix: Matrix) -> float:
    """How far old tasks fell from their best: mean_{i < T-1} (max_{t < T-1} R[t, i] - R[T-1, i]).

    Negative where the last increment improved old tasks. The best is taken over models before the last one,
    those from before the task included. Chaudhry et al., Riemannian walk (ECCV 2018).

    >>> forgetting([[1.0, 0.0, 0.0], [0.5, 0.75, 0.0], [0.5, 0.5, 1.0]])
    0.375
    """
    r = _square(matrix)
    if len(r) < 2:
        return math.nan
    return _mean(r[:-1, :-1].max(axis=0) - r[-1, :-1])


def backward_transfer(matrix: Matrix) -> float:
    """What later tasks did to earlier ones: mean_{i < T-1} (R[T-1, i] - R[i, i]). Negative is forgetting.

    BWT of Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2.

    >>> backward_transfer([[0.75, 0.0], [0.5, 1.0]])
    -0.25
    """
    r = _square(matrix)
    return _mean((r[-1:] - np.diagonal(r)).ravel()[:-1])


def forward_transfer(matrix: Matrix, untrained: npt.ArrayLike) -> float:
    """What earlier tasks did for later ones: mean_{i > 0} (R[i-1, i] - b[i]).

    `untrained` (T,) is b, the score of the model on each task before it learned anything.
    FWT of Lopez-Paz and Ranzato, Gradient episodic memory (NeurIPS 2017), section 2.

    >>> forward_transfer([[1.0, 0.75], [1.0, 1.0]], untrained=[0.5, 0.5])
    0.25
    """
    r, b = _square(matrix), np.asarray(untrained, dtype=np.float64)
    if b.shape != (len(r),):
        raise ArgumentError(f"untrained: expected a score for each of {len(r)} tasks, got shape {b.shape}")
    return _mean(np.diagonal(r, offset=1) - b[1:])


def anytime_accuracy(matrix: Matrix) -> float:
    """Mean, over increments, of the average accuracy on the tasks seen so far: mean_t mean_{i <= t} R[t, i].

    Two learners that end alike can differ all the way there. "Average anytime accuracy" of Caccia et al.,
    New insights on reducing abrupt representation change (ICLR 2022); Koh et al. (ICLR 2022) take
    the same mean over rows instead of tasks, as the area under the accuracy curve.

    >>> anytime_accuracy([[1.0, 0.0], [0.5, 0.5]])
    0.75
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
