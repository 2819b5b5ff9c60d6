"""Merge named tensors between replicas, with the same bits as merging them in one place.

    scatter   every replica sends the k-th slice of its tensors to replica k, and how many rows it learned
    merge     replica k merges all k-th slices in rank order, by the very functions the other engines call
    gather    every replica collects the merged slices

Each replica puts 2 (R - 1) / R times its weights on the wire, whatever R is: as little as a ring does, and unlike a
ring's the order of every sum is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.torch_privates import gather_flat
from incr_core.update import Update, Weights, mean, merge_shared

__all__ = ["Merge", "ReplicaExchange"]

Merge = Callable[[Sequence[Weights], Sequence[int]], Weights]
"""From the slices of all replicas, in rank order, and their rows, to the merged slice."""

_ALIGNED = 16
"""Bytes at whose multiples vectors start, so that they can be viewed as any type: the largest is complex128."""

_HEADER = _ALIGNED
"""Bytes before the tensors of a slice: how many rows its sender learned, an int64, and room."""


class ReplicaExchange:
    """Merge named tensors with the same shard of all other replicas.

    group: a `ProcessGroupGloo` or `ProcessGroupNCCL` of the workers that hold this shard.
    rank, size: which replica this is, and how many there are; at least two.
    wait: waits for one message of the group, torch's `Work`.
    """

    def __init__(
        self, group: Any, rank: int, size: int, wait: Callable[[Any], None] = lambda work: work.wait()
    ) -> None:
        self.group = group
        self.rank = rank
        self.size = size
        self._wait = wait
        self.bytes_sent = 0
        self._packings: dict[tuple[str, ...], Packing] = {}

    def mean(self, update: Update, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> tuple[Weights, int]:
        """What `update.mean` makes of all replicas' updates, and their rows. `anchor` needs what merges by "sum"."""
        packing = self._packing(update.weights, rules)
        start = self._summed(packing, anchor)

        def merge(slices: Sequence[Weights], rows: Sequence[int]) -> Weights:
            if not any(rows):  # nobody has learned anything: all slices are the anchor's
                return slices[0]
            return mean([Update(part, count) for part, count in zip(slices, rows, strict=True)], start, packing.rules)

        return self._merged(packing, update.weights, update.rows, merge)

    def shared(self, state: Weights, rows: int, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """What `update.merge_shared` makes of all replicas' shared strategy state. `anchor` as in `mean`."""
        packing = self._packing(state, rules)
        start = self._summed(packing, anchor)

        def merge(slices: Sequence[Weights], counts: Sequence[int]) -> Weights:
            return merge_shared(slices, counts, packing.rules, start)

        return self._merged(packing, state, rows, merge)[0]

    def _summed(self, packing: Packing, anchor: Mapping[str, Tensor]) -> Weights:
        """This replica's slices of the anchor, of what merges by "sum"."""
        summed = [name for name, rule in packing.rules.items() if rule == "sum"]
        return {name: flat[self.rank] for name, flat in packing.flatten(anchor, summed).items()}

    def _packing(self, tensors: Weights, rules: Mapping[str, str]) -> Packing:
        """Laid out once: the same names are the same tensors for as long as a learner lives."""
        names = tuple(tensors)
        if names not in self._packings:
            self._packings[names] = Packing(tensors, rules, self.size)
        return self._packings[names]

    @torch.no_grad()
    def _merged(self, packing: Packing, tensors: Weights, rows: int, merge: Merge) -> tuple[Weights, int]:
        sent, received = packing.buffer(self.size), packing.buffer(self.size)
        sent[:, :8].view(torch.int64).fill_(rows)
        for key, flat in packing.flatten(tensors).items():
            packing.view(sent, key).copy_(flat)
        self._wait(self.group.alltoall_base(received, sent, [], []))

        counts = received[:, :8].view(torch.int64).flatten().tolist()
        slices = [{key: packing.view(part, key) for key in packing.rules} for part in received]
        mine = packing.buffer(1)
        for key, value in merge(slices, counts).items():
            packing.view(mine, key).copy_(value)

        gathered = packing.buffer(self.size)
        self._wait(gather_flat(self.group, gathered, mine))
        self.bytes_sent += 2 * (self.size - 1) * mine.nbytes
        return packing.unflatten(gathered), sum(counts)


@dataclass(frozen=True)
class _Flat:
    """Tensors of one rule and type, laid end to end: their names, and where the slices lie in a buffer's row."""

    rule: str
    dtype: torch.dtype
    names: list[str]
    length: int
    start: int


class Packing:
    """Where named tensors lie in buffers of `size` rows of bytes, each row one replica's slice of all of them.

    Tensors that share a rule and a type are one flat vector, cut into `size` equal slices, so that the work and the
    messages do not grow with the number of tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], rules: Mapping[str, str], size: int) -> None:
        self.size = size
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.device = next(iter(tensors.values())).device
        alike: dict[tuple[str, torch.dtype], list[str]] = {}
        for name, tensor in tensors.items():
            alike.setdefault((rules.get(name, "mean"), tensor.dtype), []).append(name)
        self.flats: dict[str, _Flat] = {}
        self.bytes = _HEADER
        for (rule, dtype), names in alike.items():
            length = -(-sum(self.shapes[name].numel() for name in names) // size)
            self.flats[f"{rule} {dtype}"] = _Flat(rule, dtype, names, length, self.bytes)
            self.bytes += -(-length * dtype.itemsize // _ALIGNED) * _ALIGNED
        self.rules = {key: flat.rule for key, flat in self.flats.items()}

    def buffer(self, rows: int) -> Tensor:
        """Memory for that many slices, (rows, bytes)."""
        return torch.zeros(rows, self.bytes, dtype=torch.uint8, device=self.device)

    def view(self, buffer: Tensor, key: str) -> Tensor:
        """The vector `key` within a buffer (..., bytes) or one of its rows."""
        flat = self.flats[key]
        return buffer[..., flat.start : flat.start + flat.length * flat.dtype.itemsize].view(flat.dtype)

    def flatten(self, tensors: Mapping[str, Tensor], keys: Sequence[str] | None = None) -> Weights:
        """The tensors as vectors in slices, (size, length) each."""
        vectors = {}
        for key in self.flats if keys is None else keys:
            flat = self.flats[key]
            parts = [tensors[name].reshape(-1) for name in flat.names]
            parts.append(parts[0].new_zeros(self.size * flat.length - sum(part.numel() for part in parts)))
            vectors[key] = torch.cat(parts).view(self.size, flat.length)
        return vectors

    def unflatten(self, buffer: Tensor) -> Weights:
        """The inverse of `flatten`, from a buffer of all slices; in memory of its own."""
        found = {}
        for key, flat in self.flats.items():
            vector, start = self.view(buffer, key).flatten(), 0
            for name in flat.names:
                shape = self.shapes[name]
                found[name] = vector[start : start + shape.numel()].view(shape)
                start += shape.numel()
        return {name: found[name] for name in self.shapes}
