"""Saved state of a contributor, and its redistribution when the number of shards of a model changes.

FSDP gives each of S shards ceil(n / S) of a weight's n rows, and the last ones the remainder. State that belongs to a
weight is divided in the same way:

    moments of the optimiser     in the shape of the weight's shard
    strategies                   tensors in a `PerWeight`, and their last merged sums
    exchanges                    the outer step's state and the rounding residue, under the weight's name

All other state is the same in every shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from incr_core.errors import CheckpointError
from incr_core.learner import Learner
from incr_core.storage import checkpoint
from incr_core.strategies import PerWeight

__all__ = ["SavedState"]

Key = tuple[Any, ...]
"""Path of a tensor in a nested state."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """Location of the state from which a contributor resumes.

    Attributes:
        paths: The folder of this contributor's state; if it must be `cut`, the folders of all shards before, in order.
        cut: Whether the state must be redistributed.
    """

    paths: Sequence[Path]
    cut: bool = False

    def load(self, learner: Learner) -> dict[str, Any]:
        """Load the state for the shard that holds this learner, with one file in memory at a time.

        Raises:
            CheckpointError: The state cannot be redistributed.
        """
        state: dict[str, Any]
        if not self.cut:
            state, _ = checkpoint.load(self.paths[0])
            return state
        cutting = _Cutting(learner, len(self.paths))
        for shard, path in enumerate(self.paths):
            try:
                cutting.take(shard, checkpoint.load(path)[0])
            except _Uneven as error:
                raise CheckpointError(
                    f"{path}: {error}; resume with cluster.shards = {len(self.paths)}, as it was saved"
                ) from None
        return cutting.state()


class _Uneven(Exception):
    """The shards' states do not belong to one learner."""


class _Cutting:
    """Assembles one shard's part from the states of other shards. `shards` is their number."""

    def __init__(self, learner: Learner, shards: int) -> None:
        self._shards = shards
        self._mine = learner.shard
        self._parameters = [weight for group in learner.optimizer.param_groups for weight in group["params"]]
        self._lengths = {f"model.{name}": weight.shape[0] for name, weight in learner.model.named_parameters()}
        for place, part in learner.strategies.named_modules():
            if isinstance(part, PerWeight):
                for name, weight in zip(learner.context.names, learner.context.parameters, strict=True):
                    self._lengths[f"{place}.{name.replace('.', '/')}"] = weight.shape[0]
        self._first: dict[str, Any] = {}
        self._parts: dict[Key, list[Tensor]] = {}
        self._common: dict[Key, Tensor] = {}

    def take(self, shard: int, state: dict[str, Any]) -> None:
        """Add the state of a shard: this shard's part of it; check that all other state equals that of the first."""
        found = dict(_tensors(state))
        if shard == 0:
            self._first = state
        elif found.keys() != {*self._parts, *self._common}:
            other = next(iter(found.keys() ^ {*self._parts, *self._common}))
            raise _Uneven(f"expected the same entries in the states of all shards, got {_told(other)} in some")
        for key, value in found.items():
            length = self._length(key, value, shard)
            if length is not None:
                first, last = _rows(length, shard, self._shards)
                begin, end = _rows(length, *self._mine)
                begin, end = max(begin, first), min(end, last)
                self._parts.setdefault(key, []).append(value[begin - first : max(begin, end) - first].clone())
            elif shard == 0:
                self._common[key] = value
            elif key[:2] == ("learner", "extra"):
                continue  # non-tensor state of modules differs between learners; a version has the first's, too
            elif key not in self._common or not _same(self._common[key], value):
                raise _Uneven(
                    f"expected the same {_told(key)} in the states of all shards, or a part of it for each weight "
                    f"(PerWeight), got one of shape {tuple(value.shape)} that differs"
                )

    def _length(self, key: Key, value: Tensor, shard: int) -> int | None:
        """Return the total number of rows of the weight to which a tensor belongs, or None if it belongs to none."""
        if key[:3] == ("learner", "optimizer", "state"):
            weight = self._parameters[key[3]]
            first, last = _rows(weight.shape[0], shard, self._shards)
            return weight.shape[0] if value.shape == (last - first, *weight.shape[1:]) else None
        length = self._lengths.get(key[-1])
        if length is not None:
            first, last = _rows(length, shard, self._shards)
            if value.dim() == 0:
                return None
            if len(value) != last - first:
                raise _Uneven(
                    f"expected {last - first} of the {length} rows of {_told(key)}, got a tensor of shape "
                    f"{tuple(value.shape)}"
                )
        return length

    def state(self) -> dict[str, Any]:
        """Return this shard's state: the first shard's, with this shard's part of divided tensors."""
        whole: dict[str, Any] = self._rebuilt(self._first, ())
        return whole

    def _rebuilt(self, node: Any, key: Key) -> Any:
        if key in self._parts:
            return torch.cat(self._parts[key])
        if isinstance(node, Mapping):
            return {name: self._rebuilt(value, (*key, name)) for name, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(self._rebuilt(value, (*key, place)) for place, value in enumerate(node))
        return node


def _rows(length: int, shard: int, shards: int) -> tuple[int, int]:
    """Return the row range of a weight's shard, from the first up to the last.

    Example:
        >>> [_rows(5, shard, 4) for shard in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    most = -(-length // shards)
    return min(length, shard * most), min(length, (shard + 1) * most)


def _tensors(node: Any, key: Key = ()) -> Iterator[tuple[Key, Tensor]]:
    if isinstance(node, Tensor):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _tensors(value, (*key, name))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _tensors(value, (*key, place))


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit-identical, including NaN."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))


def _told(key: Key) -> str:
    return "/".join(map(str, key))
