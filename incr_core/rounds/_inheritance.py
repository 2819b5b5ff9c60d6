"""Transfer of participants' states when their number changes, without loss of information.

    staying    keeps its state, and receives its part of the leaving participants' data
    leaving    distributes its remembered rows and pending predictions among all staying participants, row by row in
               turn, and passes its unconsolidated rows to one of them
    joining    receives its part of the remembered rows of all others, and otherwise the state of the first, whose
               weights, optimiser and strategies have the same history; it draws its own random numbers

Participants are numbered: if the number grows, the last ones join; if it shrinks, the last ones leave. The result is a
function of the states and of the two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from incr_core.learner import Learner
from incr_core.memories import Memory
from incr_core.rounds._pending_predictions import PendingPredictions
from incr_core.rounds._unconsolidated_rows import UnconsolidatedRows
from incr_core.update import Weights

__all__ = ["inherited"]

State = dict[str, Any]


def inherited(learner: Learner, states: Sequence[State], number: int, count: int, keeps: int | None) -> State:
    """Return the state of participant `number` of `count`, from the states of all previous participants, in order.

    All states must belong to one commit, and to one common stream that is dealt out.

    Args:
        learner: The participant's unused learner; its contents afterwards must be loaded again.
        states: The previous states.
        number: Number of this participant.
        count: New number of participants.
        keeps: Rows kept for a consolidation (`UnconsolidatedRows`); None if strategies consolidate after every
            increment.
    """
    before, staying = len(states), min(len(states), count)
    joins, leaving = number >= staying, states[count:]
    state = dict(states[0 if joins else number])
    if joins:
        state["learner"] = {**state["learner"], **_draws(learner)}
        state["pending"] = PendingPredictions().state_dict()
        state["reference"] = None  # the first one's reference rows must count once
    state["unconsolidated"] = _unconsolidated(state, leaving[number::count], keeps, joins=joins)
    pieces = _pieces(learner, states if joins else leaving, number, count)

    learner.load_state_dict(state["learner"])
    for memory, taken in zip(learner.memories(), pieces, strict=True):
        if joins:
            memory.clear()
        elif count > before:
            memory.deal(range(before), of=count)  # the other parts go to joining participants
        for piece in taken:
            memory.join(piece)
    _correct_sums(learner, state["exchanged"].get("summed"), [] if number else leaving, joins=joins)
    if not joins:
        state["pending"] = _pending(state["pending"], leaving, number, count)
    state["learner"] = {**state["learner"], "strategies": learner.strategies.state_dict()}
    return state


def _draws(learner: Learner) -> State:
    """Return the states on which a learner's future random numbers depend."""
    state = learner.state_dict()
    return {name: deepcopy(state[name]) for name in ("generator", "steps", "random")}


def _pieces(learner: Learner, givers: Sequence[State], number: int, count: int) -> list[list[Memory]]:
    """Return, for each of the learner's memories, part `number` of `count` of the givers' memories."""
    pieces: list[list[Memory]] = [[] for _ in learner.memories()]
    for state in givers:
        learner.load_state_dict(state["learner"])
        for memory, taken in zip(learner.memories(), pieces, strict=True):
            piece = deepcopy(memory)
            piece.deal([number], of=count)
            taken.append(piece)
    return pieces


@torch.no_grad()
def _correct_sums(learner: Learner, summed: Weights | None, leaving: Sequence[State], *, joins: bool) -> None:
    """Correct strategies' sums over all rows, so that additions since the last merge count once.

    The first participant receives the additions of those that leave; a joining participant has none.
    """
    if summed is None:  # they were just merged, and are equal everywhere
        return
    state, _ = learner.shared_state()
    for name, before in summed.items():
        if joins:
            state[name].copy_(before)
        for one in leaving:
            state[name] += (one["learner"]["strategies"][name] - before).to(state[name].device)


def _pending(own: State, leaving: Sequence[State], number: int, count: int) -> State:
    """Return the pending predictions of a staying participant, with its part of those of all that leave."""
    kept = PendingPredictions()
    kept.load_state_dict(own)
    for state in leaving:
        other = PendingPredictions()
        other.load_state_dict(state["pending"])
        kept.join(other, number, count)
    return kept.state_dict()


def _unconsolidated(state: State, leaving: Sequence[State], keeps: int | None, *, joins: bool) -> State | None:
    """Return the unconsolidated rows, including those of some leaving participants."""
    if keeps is None or state["unconsolidated"] is None:
        return None
    rows = UnconsolidatedRows(keeps)
    rows.load_state_dict(state["unconsolidated"])
    if joins:
        rows.empty()
    for one in leaving:
        other = UnconsolidatedRows(keeps)
        other.load_state_dict(one["unconsolidated"])
        rows.join(other)
    return rows.state_dict()
