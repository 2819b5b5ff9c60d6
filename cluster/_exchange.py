"""Merges named tensors between replicas, with the same bits as a merge in one process.

    scatter   every replica sends its n-th share of a wave to replica n
    merge     replica n merges all n-th shares in rank order, with the functions that the other engines call
    gather    every replica receives the merged shares into its tensors

Each replica sends 2 (R - 1) / R times its weights, for any number R of replicas. This equals a ring all-reduce, but the
order of every sum is fixed. The shares are sent as messages between pairs of replicas, because gloo's collectives copy
their inputs and outputs. Weights of a few kilobytes are sent in one message (`one_message`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import increment_version

from cluster._all_to_all import OneMessage
from cluster._exchange_plan import WAVES, Span, waves_of
from cluster._rounded_exchange import RoundedSpan, roundable, rounded_waves_of
from incr_core.errors import EngineError
from incr_core.update import Update, Weights, mean, merge_shared

__all__ = ["ReplicaExchange"]

Merge = Callable[[Sequence[Weights], Sequence[int], Mapping[str, str], Weights, Weights], Weights]
"""Merges the spans of all replicas, in rank order, with their rows, their rules and the anchor's span.

The last argument is the output, used if it is not one of the spans.
"""


AnySpan = Span | RoundedSpan
Wave = Sequence[Sequence[AnySpan]]
"""The spans of each share."""


class ReplicaExchange:
    """Merges named tensors with the same shard of all other replicas, in place.

    Args:
        group: A `ProcessGroupGloo` or `ProcessGroupNCCL` of the workers that hold this shard.
        rank: Index of this replica.
        size: Number of replicas, at least two.
        wait: Waits for a collective of the group, torch's `Work`, until all replicas take part in it.
        wire: "float32" sends tensors unchanged; "float16" and "int8" round the weights that may be rounded
            (`rounded_spans`).
    """

    def __init__(
        self,
        group: Any,
        rank: int,
        size: int,
        wait: Callable[[Any], None] = lambda work: work.wait(),
        wire: str = "float32",
    ) -> None:
        self.group = group
        self.rank = rank
        self.size = size
        self._wait_for = wait
        self.bytes_sent = 0
        self.rounds = roundable(wire)
        self._wire = wire
        self._peers = [peer for peer in range(size) if peer != rank]
        self._waves: dict[tuple[str, ...], Sequence[Wave]] = {}
        self._messages: dict[tuple[str, ...], OneMessage | None] = {}
        self._rounded: dict[tuple[str, ...], list[list[list[RoundedSpan]]]] = {}
        self._on_host: dict[tuple[str, ...], Weights] = {}

    def mean(
        self, update: Update, anchor: Mapping[str, Tensor], rules: Mapping[str, str], left: Mapping[str, Tensor] = {}
    ) -> tuple[Weights, int]:
        """Return `update.mean` of all replicas' updates, and the sum of their rows.

        The update's own tensors hold the mean afterwards and are returned.

        Args:
            anchor: Needed for weights that merge by "sum" and for weights that are rounded.
            left: Remainders of rounding from earlier rounds, float32, for the rounded weights; changed in place.
        """
        return self._merge(update.weights, update.num_rows, anchor, rules, _mean, left)

    def shared(self, state: Weights, rows: int, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return `update.merge_shared` of all replicas' shared strategy state. `anchor` and result as for `mean`."""
        return self._merge(state, rows, anchor, rules, merge_shared)[0]

    def total(self, count: int, device: torch.device) -> int:
        """Return the sum of all replicas' counts."""
        return sum(self._counts(count, device))

    def each(self, counts: Sequence[int], device: torch.device) -> list[list[int]]:
        """Return the counts of each replica, in rank order. Once they are known, all replicas have arrived.

        Only this wait may be long. It waits for a collective, so it can be ended if a replica does not arrive.
        """
        place = torch.device("cpu") if isinstance(self.group, dist.ProcessGroupGloo) else device
        mine = torch.tensor([list(counts)] * self.size, dtype=torch.int64, device=place)
        told = torch.empty_like(mine)
        self._wait_for(self.group.alltoall_base(told, mine, [], []))
        self.bytes_sent += (self.size - 1) * len(counts) * mine.itemsize
        found: list[list[int]] = told.tolist()
        return found

    @torch.no_grad()
    def _merge(
        self,
        tensors: Weights,
        rows: int,
        anchor: Mapping[str, Tensor],
        rules: Mapping[str, str],
        merge: Merge,
        left: Mapping[str, Tensor] = {},
    ) -> tuple[Weights, int]:
        device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        copied = device.type != "cpu" and isinstance(self.group, dist.ProcessGroupGloo)
        own, kept = (self._copied(tensors) if copied else _dense(tensors)), left
        if copied:
            needed = {name for name in tensors if name in left or rules.get(name) == "sum"}
            anchor = {name: value.cpu() for name, value in anchor.items() if name in needed}
            left = {name: value.cpu() for name, value in left.items()}
        message = None if left else self._message_of(own, rules)
        if message is None:
            total = self._fly(own, rows, anchor, rules, merge, left)
        else:
            total = self._exchange(message, own, rows, anchor, merge)
        for there, here in ((own, tensors), (left, kept)):
            for name, value in there.items():
                if value.data_ptr() != here[name].data_ptr():
                    here[name].copy_(value, non_blocking=True)
        increment_version(tensors.values())  # messages write to memory without torch noticing
        return dict(tensors), total

    def _copied(self, tensors: Weights) -> Weights:
        """Return the tensors in host memory, where they stay until the next exchange of the same tensors."""
        names = tuple(tensors)
        if names not in self._on_host:
            self._on_host[names] = {
                name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in tensors.items()
            }
        host = self._on_host[names]
        for name, value in tensors.items():
            host[name].copy_(value, non_blocking=True)
        torch.cuda.current_stream(next(iter(tensors.values())).device).synchronize()
        return dict(host)

    def _message_of(self, tensors: Weights, rules: Mapping[str, str]) -> OneMessage | None:
        names = tuple(tensors)
        if names not in self._messages:
            fits = OneMessage.fits(tensors, self.size)
            self._messages[names] = OneMessage(tensors, rules, self.size) if fits else None
        return self._messages[names]

    def _exchange(
        self, message: OneMessage, own: Weights, rows: int, anchor: Mapping[str, Tensor], merge: Merge
    ) -> int:
        """Send all tensors to all replicas, and merge everything here."""
        message.write(own, rows)
        self._wait_for(self.group.alltoall_base(message.coming, message.going, [], []))
        self.bytes_sent += message.nbytes
        counts = message.counts()
        for span, slices in message.read():
            mine = span.own(own)
            for key, value in merge(slices, counts, span.rules, span.summed(anchor), mine).items():
                mine[key].copy_(value)
            span.write(own)
        return sum(counts)

    def _fly(
        self,
        own: Weights,
        rows: int,
        anchor: Mapping[str, Tensor],
        rules: Mapping[str, str],
        merge: Merge,
        left: Mapping[str, Tensor],
    ) -> int:
        """Scatter, merge and gather, wave by wave."""
        counts = self._counts(rows, next(iter(own.values())).device)
        waves = self._waves_of({name: value for name, value in own.items() if name not in left}, rules)
        if left and any(counts):  # otherwise all values are the anchor's
            waves = [*waves, *self._rounded_waves_of({name: own[name] for name in left}, anchor, left)]
        flights = (self._flight(wave, own, anchor, counts, merge) for wave in waves)
        # Newest wave first: its messages are sent before the waits for messages of older waves.
        flying: list[Iterator[None]] = []
        for flight in (*flights, *[iter(())] * (WAVES - 1)):
            flying = [flight, *flying[: WAVES - 1]]
            for one in flying:
                next(one, None)
        return sum(counts)

    def _waves_of(self, tensors: Weights, rules: Mapping[str, str]) -> Sequence[Wave]:
        """Lay the tensors out once: the same names refer to the same tensors throughout a learner's life."""
        names = tuple(tensors)
        if names and names not in self._waves:
            self._waves[names] = waves_of(tensors, rules, self.size)
        return self._waves.get(names, ())

    def _rounded_waves_of(
        self, tensors: Weights, anchor: Mapping[str, Tensor], left: Mapping[str, Tensor]
    ) -> Sequence[Wave]:
        names = tuple(tensors)
        if names not in self._rounded:
            self._rounded[names] = rounded_waves_of(tensors, self._wire, self.size)
        for span in (span for wave in self._rounded[names] for share in wave for span in share):
            span.begin(anchor, left)
        return self._rounded[names]

    def _flight(
        self,
        wave: Wave,
        own: Weights,
        anchor: Mapping[str, Tensor],
        counts: Sequence[int],
        merge: Merge,
    ) -> Iterator[None]:
        """Yield between the three steps of a wave. Any two replicas exchange in the order of the spans, as NCCL
        requires."""
        mine = wave[self.rank] if self.rank < len(wave) else []
        spans = [(merger, span) for merger, share in enumerate(wave) for span in share]
        leaving, arriving = [], []
        for merger, span in spans:
            if merger == self.rank:
                span.read(own)
                arriving += [self._receive(row, peer) for peer, row in zip(self._peers, span.received, strict=True)]
            else:
                leaving.append(self._send(span.leaving(own, counts[self.rank]), merger))
        yield
        self._wait(arriving)
        for span in mine:
            self._merge_span(span, own, anchor, counts, merge)
        self._wait(leaving)  # the next messages overwrite the memory that was sent from
        going = []
        for merger, span in spans:
            if merger == self.rank:
                going += [self._send(span.memory(own), peer) for peer in self._peers]
            else:
                going.append(self._receive(span.memory(own), merger))
        yield
        self._wait(going)
        for _, span in spans:
            span.write(own)

    def _merge_span(
        self, span: AnySpan, own: Weights, anchor: Mapping[str, Tensor], rows: Sequence[int], merge: Merge
    ) -> None:
        """Merge the received spans with this replica's, in place."""
        mine, slices = span.own(own), span.others()
        slices.insert(self.rank, mine)
        for key, value in merge(slices, rows, span.rules, span.summed(anchor), mine).items():
            mine[key].copy_(value)
        span.merged()

    def _counts(self, count: int, device: torch.device) -> list[int]:
        """Number of rows that each replica has learned, in rank order."""
        return [one for (one,) in self.each([count], device)]

    def _send(self, content: Tensor, peer: int) -> Any:
        self.bytes_sent += content.nbytes
        return self.group.send([content], peer, 0)

    def _receive(self, place: Tensor, peer: int) -> Any:
        return self.group.recv([place], peer, 0)

    def _wait(self, messages: Sequence[Any]) -> None:
        for message in messages:
            try:
                message.wait()
            except RuntimeError as error:
                raise EngineError(f"the connection to a peer is lost: {str(error).splitlines()[0]}") from error


def _mean(
    spans: Sequence[Weights], rows: Sequence[int], rules: Mapping[str, str], anchor: Weights, out: Weights
) -> Weights:
    if not any(rows):  # no replica has learned a row: all spans equal the anchor's
        return spans[0]
    return mean([Update(span, count) for span, count in zip(spans, rows, strict=True)], anchor, rules, out)


def _dense(tensors: Weights) -> Weights:
    """Return the tensors as memory to send from and receive into: their own if contiguous and not shared, else copies.

    Two tensors that share memory would be merged one after the other, the second from the result of the first.
    """
    holders = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    return {
        name: value.detach()
        if value.is_contiguous()
        and not (value.is_conj() or value.is_neg())
        and holders[value.untyped_storage().data_ptr()] == 1
        else value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
