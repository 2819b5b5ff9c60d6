"""Declared properties of a strategy, checked when a learner is created: strategies compose or are rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from incr_core._util import unknown
from incr_core.errors import StrategyError

__all__ = ["HOOKS", "PHASES", "Traits", "check_traits"]

HOOKS = ("begin", "adopted", "augment", "weigh", "loss", "after_backward", "after_step", "end", "derive")
"""The hooks of a learner, in the order of an increment."""

PHASES = {
    "record": "reads the gradient of the loss before any strategy edits it",
    "remake": "changes weights that others are about to copy or measure",
    "main": "adds terms and gradients, moves weights, stores rows: every hook without a declared phase",
    "project": "projects the sum of the gradients added so far",
    "restrict": "keeps weights fixed: masks gradients, restores values",
    "measure": "reads the weights after all other strategies",
}
"""The phases of a hook, first to last, and their purpose. Within a phase, strategies keep the order of the list."""

RULES = ("mean", "sum", "max")


@dataclass(frozen=True, kw_only=True, repr=False)
class Traits:
    """Properties of a strategy, declared as the class attribute `traits = Traits(...)`. The defaults suit most
    strategies.

    Raises:
        StrategyError: A trait, hook, phase or merge rule does not exist, or a value has the wrong type.

    Example:
        >>> Traits(rowwise=False, phases={"end": "measure"})
        Traits(rowwise=False, phases={'end': 'measure'})
        >>> Traits(rowise=False)
        Traceback (most recent call last):
        ...
        incr_core.errors.StrategyError: traits: expected a trait, got 'rowise'; did you mean 'rowwise'?
    """

    shared: Mapping[str, str] = field(default_factory=dict)
    """Buffers that may leave the participant, by name, and how each merges: "mean" (by rows), "sum" or "max"."""

    rowwise: bool = True
    """Whether each row is treated alone, so that shards of a model may divide a batch's rows. False if `loss` reads
    several rows together or depends on which rows are new, or if `after_step` reads `output`.
    """

    needs_tasks: bool = False
    """Whether each row must have a task (`features.task`)."""

    needs_boundaries: bool = False
    """Whether an increment, or the several increments that `learner.consolidate` combines, must be a task."""

    sets_aside: bool = False
    """Whether `augment` gives new rows weight 0 in the objective's loss and learns them in another way. The learner
    rejects it beside a strategy that overrides `weigh` or sets rows aside too, because no weighted rows would remain.
    """

    remakes: bool = False
    """Whether `end` changes the model's weights or buffers. The participants' models are then merged once more, by the
    rules of a round but without the outer step. An undeclared change would be lost.
    """

    stacks: bool = False
    """Whether many learners that start from one anchor can be learned as one batch. The strategy then overrides no
    hooks but `begin`, `adopted` and `after_backward`; its state is the same for all learners; and `after_backward`
    accepts weights and gradients of many learners, (K, ...) each, works elementwise and draws no random numbers.
    """

    alone: str = ""
    """Reason why it cannot be combined with any other strategy, or empty. The learner quotes it in its error."""

    phases: Mapping[str, str] = field(default_factory=dict)
    """Hook -> phase (`PHASES`), for hooks that must run before or after those of other strategies."""

    def __new__(cls, **given: object) -> Self:
        """Raise a StrategyError for an unknown trait; `__init__` handles the others."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise StrategyError(f"traits: {unknown('a trait', name, known)}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for one in fields(self):
            value, expected = getattr(self, one.name), _type_of(one)
            if not isinstance(value, expected):
                raise StrategyError(
                    f"traits.{one.name}: expected a {expected.__name__}, got {value!r}; leave it out for the default"
                )
        for name, rule in self.shared.items():
            if rule not in RULES:
                raise StrategyError(f"traits.shared.{name}: {unknown('a merge rule', rule, RULES)}")
        for hook, phase in self.phases.items():
            if hook not in HOOKS:
                raise StrategyError(f"traits.phases: {unknown('a hook', hook, HOOKS)}")
            if phase not in PHASES:
                raise StrategyError(f"traits.phases.{hook}: {unknown('a phase', phase, PHASES)}")

    def place(self, hook: str) -> int:
        """Return the phase of a hook as a sortable number.

        Example:
            >>> Traits().place("end") < Traits(phases={"end": "measure"}).place("end")
            True
        """
        return list(PHASES).index(self.phases.get(hook, "main"))

    def declared(self) -> dict[str, Any]:
        """Return the traits that differ from the default, by name.

        Example:
            >>> Traits(remakes=True, alone="").declared()
            {'remakes': True}
        """
        default = type(self)()
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != getattr(default, one.name)
        }

    def __repr__(self) -> str:
        return f"Traits({', '.join(f'{name}={value!r}' for name, value in self.declared().items())})"


def _type_of(trait: Any) -> type:
    return Mapping if trait.default is MISSING else type(trait.default)


def check_traits(kind: type[Any], base: type[Any]) -> None:
    """Raise a StrategyError if a class declares traits in another form, or for a hook that it does not override."""
    traits = kind.__dict__.get("traits", kind.traits)
    if not isinstance(traits, Traits):
        raise StrategyError(
            f"{kind.__name__}.traits: expected Traits, got {type(traits).__name__}; write traits = Traits(...)"
        )
    for one in fields(Traits):
        if one.name in kind.__dict__:
            raise StrategyError(
                f"{kind.__name__}.{one.name}: expected this trait within Traits, got a class attribute; "
                f"write traits = Traits({one.name}=...)"
            )
    needed = [("phases", hook) for hook in traits.phases]
    needed += [("remakes", "end")] * traits.remakes + [("sets_aside", "augment")] * traits.sets_aside
    for trait, hook in needed:
        if getattr(kind, hook) is getattr(base, hook):
            raise StrategyError(
                f"{kind.__name__}.traits.{trait}: expected with the hook `{hook}`, got a class that does not override "
                "it; define the hook or leave the trait out"
            )
