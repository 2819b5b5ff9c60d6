"""A round of many participants in one process, learned as one batch if their learners allow it."""

from __future__ import annotations

from collections.abc import Sequence

from incr_core.batch import Batch
from incr_core.learner import learn_stacked, why_alone
from incr_core.rounds._participant import Participant
from incr_core.update import Update, Weights

__all__ = ["learn_side_by_side"]


def learn_side_by_side(
    participants: Sequence[Participant], anchor: Weights, first: Sequence[bool]
) -> tuple[list[Update], str]:
    """Learn one round of each participant over its current increment, from one anchor.

    Learned as one batch, a participant contributes the same as alone, to rounding (law 12), and its model keeps its
    weights until it adopts an anchor.

    Args:
        participants: The participants.
        anchor: The anchor.
        first: Whether it is the first round over the increment, for each participant.

    Returns:
        The updates, and the reason if the participants had to be learned one by one, otherwise "".
    """
    why = _why_alone(participants)
    if why:
        return [participant.learn(anchor, begins) for participant, begins in zip(participants, first, strict=True)], why
    participants[0].learner.adopt(anchor)
    for participant, begins in zip(participants, first, strict=True):
        participant.prepare(begins)
    updates: list[Update] = [Update(dict(anchor), 0) for _ in participants]
    learning = [place for place, participant in enumerate(participants) if len(_rows(participant))]
    before = [participant.learner.context.step for participant in participants]
    if learning:
        found = learn_stacked(
            [participants[place].learner for place in learning],
            [_rows(participants[place]) for place in learning],
            participants[0].passes(),
            anchor,
        )
        for place, update in zip(learning, found, strict=True):
            update.steps = participants[place].learner.context.step - before[place]
            updates[place] = update
    return updates, ""


def _rows(participant: Participant) -> Batch:
    assert participant.increment is not None, "receive an increment before learning it"
    return participant.increment.labelled


def _why_alone(participants: Sequence[Participant]) -> str:
    if participants[0].personal:
        return "federated.personal: each client has personal weights"
    if any(participant.stopping is not None for participant in participants):
        return "learner.validation: each client stops after a different number of passes"
    if len({participant.passes() for participant in participants}) > 1:
        return "they pass over their rows a different number of times"
    if len({participant.learner.descent.factor for participant in participants}) > 1:
        return "they learn at different rates"
    found = (why_alone(participant.learner) for participant in participants)
    why = next((reason for reason in found if reason), "")
    if not why:
        template = participants[0]
        tried = next((_rows(each) for each in participants if len(_rows(each))), None)
        why = why_alone(template.learner, tried)
    return why
