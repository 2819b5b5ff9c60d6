"""Compressed updates: what a client has learned travels as a coded difference from the anchor.

    client    x = (w - a) + e      sends code(x)      e <- x - decoded      e stays on its disk
    server    w' = a + decoded     checked, clipped and merged as any other update

Weights that merge by "mean" are coded. Buffers, counts, statistics, tables of ids and the state of strategies travel
unchanged. The bytes of a message depend on the job alone, and the server checks their number before it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from federated._flower_privates import flat_array
from federated._records import pack, unpack
from incr_core.errors import ArgumentError, EngineError
from incr_core.job import FederatedSection
from incr_core.numerics import WIRES, all_finite, coding_of, encode_with_feedback, roundable
from incr_core.shown import shown
from incr_core.update import Weights

__all__ = ["CODES", "BadCodes", "Wire"]

CODES = "codes"
"""Key of the codes in a record, beside the tensors that travel unchanged."""

KINDS = torch.float32, torch.bfloat16, torch.float16
"""Dtypes of weights that a sparse update codes."""


class BadCodes(EngineError):
    """Codes that no update of these weights has. The message contains nothing that the client sent."""


@dataclass(frozen=True, slots=True)
class Wire:
    """The coding of updates, as a server orders it.

    Args:
        wire: "float32", "float16" or "int8".
        top_k: Share of the numbers that are sent; None sends all.
        feedback: Whether a client keeps the error of the coding and adds it to its next update.

    Example:
        >>> wire, anchor = Wire("int8", None, True), {"w": torch.tensor([1.0, 1.0])}
        >>> left: dict[str, Tensor] = {}
        >>> record = wire.pack({"w": torch.tensor([128.0, 1.4])}, anchor, {"w": "mean"}, left)
        >>> wire.unpack(record, anchor, {"w": "mean"}), left
        ({'w': tensor([128.,   1.])}, {'w': tensor([0.0000, 0.4000])})
    """

    wire: str
    top_k: float | None
    feedback: bool

    @classmethod
    def of(cls, wanted: FederatedSection) -> Wire | None:
        """Return the coding that a job asks for; None if updates travel unchanged."""
        if not wanted.compresses:
            return None
        return cls(wanted.wire, wanted.top_k, wanted.error_feedback)

    def order(self) -> dict[str, Any]:
        """Return the coding as entries of an order to learn."""
        told = {"wire": self.wire, "feedback": self.feedback}
        return told if self.top_k is None else {**told, "top_k": self.top_k}

    @classmethod
    def ordered(cls, order: Mapping[str, Any]) -> Wire | None:
        """Return the coding of an order, which may come from an untrusted server; None if it names none.

        Raises:
            EngineError: The order names a coding that does not exist.

        Example:
            >>> Wire.ordered(Wire("int8", 0.01, True).order())
            Wire(wire='int8', top_k=0.01, feedback=True)
        """
        if "wire" not in order:
            return None
        wire, top_k, feedback = order["wire"], order.get("top_k"), order.get("feedback")
        share = top_k is None or (isinstance(top_k, float) and 0 < top_k <= 1)
        if wire not in (*WIRES, "float32") or not share or not isinstance(feedback, bool):
            raise EngineError(
                f'order to learn: expected wire = "float32", "float16" or "int8", and a share top_k, got '
                f"{shown(repr(wire), 40)} and {shown(repr(top_k), 40)}; the server must order a known coding"
            )
        return cls(str(wire), top_k, feedback)

    def pack(
        self, weights: Weights, anchor: Mapping[str, Tensor], rules: Mapping[str, str], left: dict[str, Tensor]
    ) -> ArrayRecord:
        """Return an update as a record.

        Args:
            weights: The weights of the update.
            anchor: The anchor.
            rules: Merge rule of each weight.
            left: The errors of earlier codings, by name, float32; replaced by the new ones. An update with values that
                are not finite leaves them as they are: the server rejects it, and later updates must not suffer.
        """
        names = self.coded(weights, rules)
        record = pack({name: value for name, value in weights.items() if name not in names})
        coding, sizes = coding_of(self.wire, self.top_k), [weights[name].numel() for name in names]
        assert coding is not None
        values = torch.empty(sum(sizes))
        places = list(torch.split(values, sizes))
        with torch.no_grad():
            for name, place in zip(names, places, strict=True):
                place.copy_(weights[name].detach().reshape(-1).float().cpu() - anchor[name].reshape(-1).float().cpu())
        codes = torch.empty(coding.nbytes(len(values)), dtype=torch.uint8)
        if self.feedback and names and all_finite(values):
            errors = [left.get(name, torch.zeros(size)) for name, size in zip(names, sizes, strict=True)]
            encode_with_feedback(coding, values, places, errors, codes)
            left.update(zip(names, errors, strict=True))
        elif names:
            coding.encode(values, codes)
        record[CODES] = flat_array(codes.numpy())
        return record

    def unpack(self, record: ArrayRecord, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> Weights:
        """Return the weights of an update, from the record of an untrusted client.

        Args:
            record: The record.
            anchor: The anchor that the client was sent.
            rules: Merge rule of each weight.

        Raises:
            BadCodes: The codes have another number of bytes than the anchor's weights take, or place numbers outside
                of them. Nothing is allocated for them before.
        """
        names = self.coded(anchor, rules)
        coding, sizes = coding_of(self.wire, self.top_k), [anchor[name].numel() for name in names]
        assert coding is not None
        expected = coding.nbytes(sum(sizes))
        got = len(record[CODES].data) if CODES in record else 0
        if got != expected:
            raise BadCodes(f"wire: expected {expected:,} bytes of codes, got {got:,}; code each weight once")
        exact = unpack(record, copy=False)
        codes = torch.from_numpy(np.frombuffer(record[CODES].data, np.uint8).copy())
        try:
            values = coding.decode(codes, torch.empty(sum(sizes))) if names else torch.empty(0)
        except ArgumentError as error:
            raise BadCodes(str(error)) from error
        coded = {name: _moved(anchor[name], by) for name, by in zip(names, torch.split(values, sizes), strict=True)}
        found = {**exact, **coded}
        # In the order of the anchor, as an update that is not coded; other names are for the checks to reject.
        return {**{name: found[name] for name in anchor if name in found}, **found}

    def decode(self, content: RecordDict, anchor: Mapping[str, Tensor], rules: Mapping[str, str]) -> None:
        """Replace the update in an answer by the decoded one; see `unpack`."""
        content["weights"] = pack(self.unpack(content.array_records["weights"], anchor, rules))

    def coded(self, weights: Mapping[str, Tensor], rules: Mapping[str, str]) -> list[str]:
        """Return the names of the weights that are coded, in the same order at client and server."""
        kinds = roundable(self.wire) if self.top_k is None else frozenset(KINDS)
        return sorted(
            name for name, value in weights.items() if rules.get(name, "mean") == "mean" and value.dtype in kinds
        )


@torch.no_grad()
def _moved(anchor: Tensor, by: Tensor) -> Tensor:
    return (anchor.float() + by.view(anchor.shape)).to(anchor.dtype)
