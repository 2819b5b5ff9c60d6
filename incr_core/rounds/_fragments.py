"""Fragments of a model that are exchanged in turn, one per round.

Reference: Streaming DiLoCo, Douillard et al. 2025, arXiv:2501.18512.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from incr_core.update import Update, Weights

__all__ = ["Fragments", "fragments_of"]

Merge = Callable[[Update, Weights], tuple[Weights, int]]
"""`Exchange.mean` of an update, which owns its tensors, and the anchor."""


def fragments_of(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Divide names into at most `count` groups of neighbours of about equal size, none of them empty.

    Example:
        >>> fragments_of({"a": 4, "b": 1, "c": 3, "d": 4}, 3)
        [['a'], ['b', 'c'], ['d']]
        >>> fragments_of({"a": 4}, 3)
        [['a']]
    """
    total, before = sum(sizes.values()), 0
    found: list[list[str]] = [[] for _ in range(count)]
    for name, size in sizes.items():
        # A name belongs to the group that contains its midpoint.
        found[min(count - 1, (2 * before + size) * count // max(1, 2 * total))].append(name)
        before += size
    return [group for group in found if group]


class Fragments:
    """Weights of one learner in fragments, each synchronised in a different round.

    With P fragments, B_f the common base of fragment f, u_{i,f} the change that replica i has made to it since, and p_i
    its share of the rows since,

        after round k, of k = 0, 1, ...     fragment f = k mod P:   B_f <- outer(B_f, B_f + sum_i p_i u_{i,f})
        after the last round                the same for all fragments

    Args:
        weights: Returns the live weights.
        names: Names of the weights of each fragment.
        merge: The exchange with the peers.
        step: The outer step, from B_f and the mean to the next B_f.

    Example:
        >>> weights = {"a": torch.tensor([8.0]), "b": torch.tensor([4.0])}
        >>> halve = lambda own, base: ({name: value / 2 for name, value in own.weights.items()}, own.num_rows)
        >>> fragments = Fragments(lambda: weights, [["a"], ["b"]], halve, lambda base, mean: mean)
        >>> fragments.learned(3, last=False); weights
        {'a': tensor([4.]), 'b': tensor([4.])}
        >>> fragments.learned(3, last=True); weights
        {'a': tensor([2.]), 'b': tensor([2.])}
    """

    def __init__(
        self,
        weights: Callable[[], Weights],
        names: Sequence[Sequence[str]],
        merge: Merge,
        step: Callable[[Weights, Weights], Weights],
    ) -> None:
        self._weights, self._names, self._merge, self._step = weights, names, merge, step
        live = weights()
        self._bases = [{name: live[name].clone() for name in group} for group in names]
        self._rows = [0] * len(names)
        self._round = 0

    def learn(self, take: Callable[[], int], goes_on: Callable[[], bool]) -> int:
        """Learn all rounds of an increment; return the number of rows learned.

        Args:
            take: Learns a round, and returns its number of rows.
            goes_on: Returns whether there is another round.
        """
        rows, more = 0, True
        while more:
            learned = take()
            rows += learned
            more = goes_on()
            self.learned(learned, last=not more)
        return rows

    def learned(self, rows: int, *, last: bool) -> None:
        """Finish a round of `rows` rows: exchange the fragment whose turn it is, or all after the last round."""
        self._rows = [before + rows for before in self._rows]
        turn = self._round % len(self._names)
        self._round += 1
        for number in range(len(self._names)) if last else [turn]:
            self._exchange(number)

    @torch.no_grad()
    def _exchange(self, number: int) -> None:
        live = self._weights()
        mine, base = {name: live[name] for name in self._names[number]}, self._bases[number]
        merged, total = self._merge(Update(mine, self._rows[number]), base)
        self._rows[number] = 0
        if total:  # without rows the outer step is skipped, so that momentum alone moves nothing
            following = self._step(base, merged)
            torch._foreach_copy_([mine[name] for name in following], list(following.values()))
            torch._foreach_copy_([base[name] for name in following], list(following.values()))
