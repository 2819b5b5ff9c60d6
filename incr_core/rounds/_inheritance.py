"""What becomes of participants' states when their number changes: nothing that one knows is lost.

    who stays    keeps its state, and takes in its part of what those who leave have
    who leaves   leaves its remembered rows and pending predictions to all who stay, row by row in turn, and its rows
                 that strategies have yet to consolidate to one of them
    who joins    takes its part of the remembered rows of all others, and of all else the state of the first, whose
                 weights, optimiser and strategies have gone through the same; it draws its own random numbers

Participants are numbered: of more than before the last ones join, of fewer the last ones leave. So what comes out is a
function of the states and of the two numbers, however it came to the change.
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
    """The state of participant `number` of `count`, from those of all participants before, in their order.

    learner: the participant's own, not used before; what it holds afterwards is to be loaded anew. keeps: rows kept for
    a consolidation (`UnconsolidatedRows`), None where strategies consolidate after every increment.

    All states must be of one commit, and of one common stream that is dealt out.
    """
    before, staying = len(states), min(len(states), count)
    joins, leaving = number >= staying, states[count:]
    state = dict(states[0 if joins else number])
    if joins:
        state["learner"] = {**state["learner"], **_draws(learner)}
        state["pending"] = PendingPredictions().state_dict()
        state["reference"] = None  # what the first one keeps of its rows counts once
    state["unconsolidated"] = _unconsolidated(state, leaving[number::count], keeps, joins=joins)
    pieces = _pieces(learner, states if joins else leaving, number, count)

    learner.load_state_dict(state["learner"])
    for memory, taken in zip(learner.memories(), pieces, strict=True):
        if joins:
            memory.clear()
        elif count > before:
            memory.deal(range(before), of=count)  # the other parts are theirs who join
        for piece in taken:
            memory.join(piece)
    _correct_sums(learner, state["exchanged"].get("summed"), [] if number else leaving, joins=joins)
    if not joins:
        state["pending"] = _pending(state["pending"], leaving, number, count)
    state["learner"] = {**state["learner"], "strategies": learner.strategies.state_dict()}
    return state


def _draws(learner: Learner) -> State:
    """What the random numbers that a learner will draw depend on."""
    state = learner.state_dict()
    return {name: deepcopy(state[name]) for name in ("generator", "steps", "random")}


def _pieces(learner: Learner, givers: Sequence[State], number: int, count: int) -> list[list[Memory]]:
    """For each of the learner's memories the parts, number `number` of `count`, that others give of theirs."""
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
    """Let strategies' sums over all rows stay so: what was added since they were merged last counts once.

    The first takes in what those who leave have added; who joins has added nothing.
    """
    if summed is None:  # they were merged just now, and are equal in all
        return
    state, _ = learner.shared_state()
    for name, before in summed.items():
        if joins:
            state[name].copy_(before)
        for one in leaving:
            state[name] += (one["learner"]["strategies"][name] - before).to(state[name].device)


def _pending(own: State, leaving: Sequence[State], number: int, count: int) -> State:
    """The pending predictions of one who stays, and its part of those of all who leave."""
    kept = PendingPredictions()
    kept.load_state_dict(own)
    for state in leaving:
        other = PendingPredictions()
        other.load_state_dict(state["pending"])
        kept.join(other, number, count)
    return kept.state_dict()


def _unconsolidated(state: State, leaving: Sequence[State], keeps: int | None, *, joins: bool) -> State | None:
    """The rows that strategies have yet to consolidate, and those of some who leave."""
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
