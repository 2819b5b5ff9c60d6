"""What a strategy declares about itself, read when a learner is made: so strategies compose, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from incr_core._util import unknown
from incr_core.errors import StrategyError

__all__ = ["HOOKS", "PHASES", "Traits", "check_traits"]

HOOKS = ("begin", "adopted", "augment", "weigh", "loss", "after_backward", "after_step", "end", "derive")
"""The hooks that a learner calls, in the order of an increment."""

PHASES = {
    "record": "reads the gradient of the loss before any strategy edits it",
    "remake": "changes weights that others are about to copy or to measure",
    "main": "adds terms and gradients, moves weights, remembers rows: every hook that declares no phase",
    "project": "turns the sum of the gradients added so far",
    "restrict": "keeps weights still: masks gradients, puts values back",
    "measure": "reads the weights that all others have left behind",
}
"""The phases of a hook, first to last, and what belongs there. Within a phase, strategies come as they are listed."""

RULES = ("mean", "sum", "max")


@dataclass(frozen=True, kw_only=True, repr=False)
class Traits:
    """Declared by a strategy as a class attribute, `traits = Traits(...)`; what is left out is as for most strategies.

    Raises StrategyError for a trait, a hook, a phase or a merge rule that does not exist, and for a value of another
    type.

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
    """Whether each row is treated alone, so that shards of a model may divide a batch's rows. False where `loss` looks
    at several rows together or at which rows are new, or where `after_step` looks at `output`."""

    needs_tasks: bool = False
    """Whether each row must have a task (`features.task`)."""

    needs_boundaries: bool = False
    """Whether an increment, or what `learner.consolidate` makes of several, must be a task."""

    sets_aside: bool = False
    """Whether `augment` takes new rows out of the objective's loss, by weight 0, to learn them in its own way. The
    learner refuses it beside a strategy that overrides `weigh` or sets rows aside too: that one would find none."""

    remakes: bool = False
    """Whether `end` changes the model, its weights or buffers. What each participant made of it is then merged once
    more, by the rules of a round but without the outer step; a change that is not declared would be lost."""

    stacks: bool = False
    """Whether many learners that start from one anchor may be learned as one batch: it overrides no hooks but `begin`,
    `adopted` and `after_backward`; its state is the same for all of them; and `after_backward` may be given weights and
    gradients of many, (K, ...) each, treats each number alone and draws nothing."""

    alone: str = ""
    """Why it cannot be combined with any other strategy, if so: the reason that the learner gives when it refuses."""

    phases: Mapping[str, str] = field(default_factory=dict)
    """Hook -> phase (`PHASES`), for hooks that must come before or after those of other strategies."""

    def __new__(cls, **given: object) -> Self:
        """Refuse a trait that does not exist in our own words; `__init__` takes the others."""
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
        """The phase of a hook as a number that sorts.

        >>> Traits().place("end") < Traits(phases={"end": "measure"}).place("end")
        True
        """
        return list(PHASES).index(self.phases.get(hook, "main"))

    def declared(self) -> dict[str, Any]:
        """The traits that differ from the default, by name.

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
    """StrategyError where a class declares traits in another way, or traits of a hook that it does not override."""
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
