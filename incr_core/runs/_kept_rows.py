"""Single rows that a participant's saved state holds: their places, and their deletion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from incr_core.batch import Batch
from incr_core.errors import CheckpointError
from incr_core.job import Job
from incr_core.memories import Memory
from incr_core.rounds import PendingPredictions, Reference, UnconsolidatedRows

__all__ = ["KEPT", "delete_rows", "is_participants", "memories_of", "rows_kept"]

KEPT = ("remembered", "kept", "waiting", "predicted", "compared")
"""Places of rows in a state: memories, rows for consolidation, rows to be learned, predictions without a label yet,
rows for the comparison of versions."""

Memories = Mapping[str, Memory]
"""The memories of a job's strategies, by their names in a learner's state."""


def memories_of(job: Job) -> Memories:
    """Return the memories of a job's strategies."""
    return {
        name: module for name, module in nn.ModuleList(job.strategies()).named_modules() if isinstance(module, Memory)
    }


def is_participants(state: Any) -> bool:
    """Return whether a saved state is a participant's. States of the loop and of an outer step hold no single row."""
    return isinstance(state, Mapping) and "learner" in state


def rows_kept(state: Mapping[str, Any], memories: Memories) -> dict[str, Tensor]:
    """Ids of the rows that a participant's state keeps, (n,) each, by the places of `KEPT`.

    Raises:
        StrategyError: No row can be removed from a memory.
        CheckpointError: The state is of other memories.
    """
    remembered = []
    for name, memory in memories.items():
        _load(memory, name, state)
        memory.drop(torch.empty(0, dtype=torch.int64))
        remembered.append(memory.rows_held().get("rows", torch.empty(0, dtype=torch.int64)))
    none = torch.empty(0, dtype=torch.int64)
    learned, at_hand = state["unconsolidated"], state["increment"]
    return {
        "remembered": torch.cat([none, *remembered]),
        "kept": none if learned is None or learned["kept"] is None else learned["kept"]["rows"],
        "waiting": none if at_hand is None else torch.cat([at_hand[name]["rows"] for name in _at_hand(at_hand)]),
        "predicted": state["pending"]["rows"],
        "compared": none if (reference := _reference(state)) is None else reference.rows_held(),
    }


def delete_rows(state: dict[str, Any], memories: Memories, ids: Tensor) -> None:
    """Delete the rows with these ids (n,) from a participant's state, in place."""
    for name, memory in memories.items():
        _load(memory, name, state)
        memory.drop(ids)
        strategies = state["learner"]["strategies"]
        strategies.update({f"{name}.{key}": value for key, value in memory.state_dict().items()})
    if state["unconsolidated"] is not None:
        learned = UnconsolidatedRows(0)
        learned.load_state_dict(state["unconsolidated"])
        learned.erase(ids)
        state["unconsolidated"] = learned.state_dict()
    pending = PendingPredictions()
    pending.load_state_dict(state["pending"])
    pending.take(ids)
    state["pending"] = pending.state_dict()
    if (reference := _reference(state)) is not None:
        reference.erase(ids)
        state["reference"] = reference.state_dict()
    if (at_hand := state["increment"]) is not None:
        for name in _at_hand(at_hand):
            at_hand[name] = Batch.from_state(at_hand[name]).without(ids).state_dict()


def _at_hand(at_hand: Mapping[str, Any]) -> list[str]:
    """Names of the batches of the current increment."""
    return [name for name in ("labelled", "held") if name in at_hand]


def _reference(state: Mapping[str, Any]) -> Reference | None:
    if state.get("reference") is None:  # of a job without a gate
        return None
    reference = Reference(1)  # no row is added to it
    reference.load_state_dict(state["reference"])
    return reference


def _load(memory: Memory, name: str, state: Mapping[str, Any]) -> None:
    strategies = state["learner"]["strategies"]
    prefix = f"{name}."
    try:
        memory.load_state_dict(
            {key.removeprefix(prefix): value for key, value in strategies.items() if key.startswith(prefix)}
        )
    except RuntimeError as error:  # torch's message names the missing keys
        raise CheckpointError(f"expected the state of memory {name}, got another's: {error}") from error
