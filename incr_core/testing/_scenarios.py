"""Streams for studying forgetting: increments whose distribution changes, made from one set of rows.

Every scenario takes rows and returns a list of increments, each a `Batch` with `task` filled in. Applied to test rows
with the same arguments, it returns the test rows of each task. `drifting` converts such a list to a stream with gradual
transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from incr_core.batch import Batch, cat
from incr_core.errors import StreamError
from incr_core.memories import columns_of

__all__ = ["blurry", "class_incremental", "drifting", "permuted", "rotated", "task_incremental"]


def class_incremental(rows: Batch, classes_each: int, order: Sequence[int] | None = None) -> list[Batch]:
    """Divide rows into increments of new classes, `classes_each` at a time, in ascending order or in `order`.

    Rows keep their order within an increment.

    Example:
        >>> rows = Batch(torch.zeros(4, 1), torch.tensor([0, 2, 1, 3]))
        >>> [part.targets.tolist() for part in class_incremental(rows, 2)]
        [[0, 1], [2, 3]]

    Reference:
        van de Ven & Tolias 2019, "Three scenarios for continual learning".
    """
    classes = torch.unique(rows.targets).tolist() if order is None else list(order)
    if classes_each < 1 or len(classes) % classes_each:
        raise StreamError(f"class_incremental: expected a divisor of {len(classes)} classes, got {classes_each}")
    groups = [classes[start : start + classes_each] for start in range(0, len(classes), classes_each)]
    picked = [torch.isin(rows.targets, torch.tensor(group)).nonzero().flatten() for group in groups]
    return [_numbered(rows.take(index), task) for task, index in enumerate(picked)]


def task_incremental(rows: Batch, classes_each: int, order: Sequence[int] | None = None) -> list[Batch]:
    """Divide rows as `class_incremental`, with targets that count from 0 within each task.

    The task is known, and the head is shared or selected by `Batch.task`.

    Example:
        >>> rows = Batch(torch.zeros(4, 1), torch.tensor([0, 2, 1, 3]))
        >>> [part.targets.tolist() for part in task_incremental(rows, 2)]
        [[0, 1], [0, 1]]
    """
    increments = class_incremental(rows, classes_each, order)
    return [replace(part, targets=torch.unique(part.targets, return_inverse=True)[1]) for part in increments]


def permuted(rows: Batch, tasks: int, seed: int = 0) -> list[Batch]:
    """Return all rows in every increment, with features in a new fixed permutation each; the first is unchanged.

    Shapes:
        rows.inputs: (N, d).

    Example:
        >>> rows = Batch(torch.arange(3.0)[None], torch.tensor([0]))
        >>> [sorted(part.inputs.flatten().tolist()) for part in permuted(rows, 2)]
        [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]

    Reference:
        Goodfellow et al. 2013; Kirkpatrick et al. 2017, section 2.2.
    """
    inputs, generator = _tensor(rows, "permuted"), torch.Generator().manual_seed(seed)
    width = inputs.shape[1]
    orders = [torch.arange(width), *(torch.randperm(width, generator=generator) for _ in range(tasks - 1))]
    return [_numbered(replace(rows, inputs=inputs.index_select(1, order)), task) for task, order in enumerate(orders)]


def rotated(rows: Batch, tasks: int, degrees: float = 180.0) -> list[Batch]:
    """Return all rows in every increment, rotated by equal steps from 0 to `degrees`.

    Shapes:
        rows.inputs: (N, side * side), square images.

    Example:
        >>> rows = Batch(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0]))
        >>> [part.inputs.flatten().round().tolist() for part in rotated(rows, 2)]
        [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]

    Reference:
        Lopez-Paz & Ranzato 2017, section 4.
    """
    inputs = _tensor(rows, "rotated")
    side = round(inputs.shape[1] ** 0.5)
    if side * side != inputs.shape[1]:
        raise StreamError(f"rotated: expected square images, (N, side * side), got rows of {inputs.shape[1]} numbers")
    images = inputs.reshape(-1, 1, side, side)
    found = []
    for task in range(tasks):
        angle = torch.deg2rad(torch.tensor(degrees * task / max(1, tasks - 1)))
        turn = torch.tensor([[[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]]])
        grid = F.affine_grid(turn, [1, 1, side, side], align_corners=False).expand(len(images), -1, -1, -1)
        turned = F.grid_sample(images, grid, align_corners=False).reshape(inputs.shape)
        found.append(_numbered(replace(rows, inputs=turned), task))
    return found


def blurry(rows: Batch, classes_each: int, blur: float = 0.1, seed: int = 0) -> list[Batch]:
    """Divide rows as `class_incremental`, but a fraction `blur` of the rows goes to a random increment.

    Rows are shuffled within increments. `task` is the task that a row's class belongs to.

    Example:
        >>> rows = Batch(torch.zeros(400, 1), torch.arange(400) % 4)
        >>> [len(part) for part in blurry(rows, 2, blur=0.0)]
        [200, 200]

    Reference:
        Bang et al. 2021, "Rainbow memory".
    """
    if not 0 <= blur <= 1:
        raise StreamError(f"blurry.blur: expected a share of rows from 0 to 1, got {blur}")
    generator = torch.Generator().manual_seed(seed)
    increments = class_incremental(rows, classes_each)
    pieces: list[list[Batch]] = [[] for _ in increments]
    for task, part in enumerate(increments):
        place = torch.full((len(part),), task)
        stray = torch.rand(len(part), generator=generator) < blur
        place[stray] = torch.randint(len(increments), (int(stray.sum()),), generator=generator)
        for target, piece in enumerate(pieces):
            piece.append(part.take((place == target).nonzero().flatten()))
    mixed = [cat(piece) for piece in pieces]
    return [part.take(torch.randperm(len(part), generator=generator)) for part in mixed]


def drifting(concepts: Sequence[Batch], every: int, width: float = 0.0, seed: int = 0) -> list[Batch]:
    """Return a stream of all concepts in sequence, in increments of `every` rows; a drift takes about `width` rows.

        p(t) = 1 / (1 + exp(-4 (t - t0) / width))

    is the probability that row t belongs to the new concept or a later one, where the earlier concepts have t0 rows in
    total. The drift is abrupt with a width of 0, otherwise gradual.

    Every row occurs once. Instead of drawing a concept for each place, the place of each row is shifted by a logistic
    variable of scale width / 4, which leaves 1 - p(t) of the old concept at t and brings p(t) of the new one. Rows then
    take the places of their concept in the given order. `task` is the number of the concept.

    Args:
        concepts: The rows of each concept.
        every: Rows per increment.
        width: Length of a drift in rows.
        seed: Seed of the shifts.

    Raises:
        StreamError: The arguments are invalid, or a drift is wider than a concept and would meet the next drift or the
            end.

    Example:
        >>> before, after = (Batch(torch.full((4, 1), value), torch.zeros(4)) for value in (1.0, 2.0))
        >>> [part.inputs.flatten().tolist() for part in drifting([before, after], every=3)]
        [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0], [2.0, 2.0]]
        >>> turning = permuted(Batch(torch.rand(500, 9), torch.zeros(500)), tasks=3)
        >>> [len(part) for part in drifting(turning, every=600, width=100)]
        [600, 600, 300]

    Reference:
        Bifet et al. 2009, "New ensemble methods for evolving data streams", section 2 (MOA's ConceptDriftStream); Gama
        et al. 2014, "A survey on concept drift adaptation".
    """
    sizes = [len(concept) for concept in concepts]
    if len(sizes) < 2 or not all(sizes):
        raise StreamError(
            f"drifting.concepts: expected at least 2, each with rows, got {len(sizes)} of {sizes} rows; "
            "give the rows before and after a drift"
        )
    first, *others = ({name: tuple(column.shape[1:]) for name, column in columns_of(rows).items()} for rows in concepts)
    for number, columns in enumerate(others, start=1):
        if columns != first:
            raise StreamError(
                f"drifting.concepts: expected rows of one form, {first}, got {columns} in concept {number}; "
                "a stream has one model: make them alike"
            )
    if every < 1:
        raise StreamError(f"drifting.every: expected at least 1 row an increment, got {every}; give each at least 1")
    if not 0 <= width <= min(sizes):
        raise StreamError(
            f"drifting.width: expected 0, for an abrupt drift, up to the {min(sizes)} rows of the shortest concept, "
            f"got {width}; make it narrower, or give more rows"
        )
    stream = cat([_numbered(rows, concept) for concept, rows in enumerate(concepts)])
    assert stream.task is not None
    u = torch.rand(len(stream), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = torch.arange(len(stream)) + width / 4 * torch.logit(u, eps=1e-12)
    # Determine the concept of each place, and from it the places of each concept, in order.
    places = torch.argsort(stream.task[torch.argsort(moved)], stable=True)
    return stream.take(torch.argsort(places)).split(every)


def _numbered(rows: Batch, task: int) -> Batch:
    return replace(rows, task=torch.full((len(rows),), task))


def _tensor(rows: Batch, place: str) -> Tensor:
    if isinstance(rows.inputs, dict) or rows.inputs.dim() != 2:
        raise StreamError(f"{place}: expected inputs (N, features), got {type(rows.inputs).__name__}")
    return rows.inputs
