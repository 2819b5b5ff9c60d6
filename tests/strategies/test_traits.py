"""What a strategy may declare about itself, and what is refused when its class is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from incr_core.commands.strategies import describe
from incr_core.errors import StrategyError
from incr_core.strategies import HOOKS, PHASES, STRATEGIES, Context, Hooks, Strategy, Traits
from incr_core.testing import check_strategy
from tests.support.repository import ROOT


def ends(traits: Any = None, **attributes: Any) -> type[Strategy]:
    """A strategy with the hook `end`."""
    declared = {} if traits is None else {"traits": traits}
    return type("Ends", (Strategy,), {"end": lambda self, ctx, labelled: None, **declared, **attributes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Traits(rowise=False), "traits: expected a trait, got 'rowise'; did you mean 'rowwise'?"),  # type: ignore[call-arg]
        (lambda: Traits(rowwise=0), "traits.rowwise: expected a bool, got 0; leave it out for the default"),  # type: ignore[arg-type]
        (lambda: Traits(alone=True), "traits.alone: expected a str, got True; leave it out for the default"),  # type: ignore[arg-type]
        (lambda: Traits(phases="end"), "traits.phases: expected a Mapping, got 'end'; leave"),  # type: ignore[arg-type]
        (
            lambda: Traits(shared={"anchor": "meen"}),
            "traits.shared.anchor: expected a merge rule, got 'meen'; did you mean 'mean'?",
        ),
        (lambda: Traits(phases={"ends": "measure"}), "traits.phases: expected a hook, got 'ends'; did you mean 'end'?"),
        (
            lambda: Traits(phases={"end": "last"}),
            "traits.phases.end: expected a phase, got 'last'; known: main, measure, project, record, remake, restrict",
        ),
        (
            lambda: ends({"rowwise": False}),
            r"Ends.traits: expected Traits, got dict; write traits = Traits\(...\)",
        ),
        (
            lambda: ends(rowwise=False),
            r"Ends.rowwise: expected this trait within Traits, got a class attribute; write traits = Traits\(rowwise=",
        ),
        (
            lambda: ends(Traits(phases={"begin": "remake"})),
            "Ends.traits.phases: expected with the hook `begin`, got a class that does not override it; define the",
        ),
        (lambda: ends(Traits(sets_aside=True)), "Ends.traits.sets_aside: expected with the hook `augment`, got"),
        (
            lambda: type("Idle", (Strategy,), {"traits": Traits(remakes=True)}),
            "Idle.traits.remakes: expected with the hook `end`, got a class that does not override it; define the",
        ),
    ],
)
def test_what_cannot_be_declared_is_refused_when_the_class_is_made(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        make()


def test_hooks_come_by_phase_and_within_one_as_listed() -> None:
    class Named(Strategy):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def end(self, ctx: Context, labelled: Any) -> None:
            """Nothing."""

    kinds = {
        phase: type(phase, (Named,), {"traits": Traits(phases={"end": phase}), "end": lambda self, ctx, labelled: None})
        for phase in PHASES
    }
    listed = [kinds[phase](f"{phase} {turn}") for turn in (1, 2) for phase in reversed(PHASES)] + [Named("main 3")]
    found = [hook.__self__.name for hook in Hooks(listed).end]
    expected = [f"{phase} {turn}" for phase in PHASES for turn in (1, 2)]
    expected.insert(expected.index("main 2") + 1, "main 3")
    assert found == expected


def test_traits_of_a_class_below_are_its_own_and_those_of_a_class_above_pass_on() -> None:
    above = ends(Traits(remakes=True))
    assert type("Below", (above,), {}).traits == Traits(remakes=True)  # type: ignore[attr-defined]
    assert type("Below", (above,), {"traits": Traits()}).traits == Traits()  # type: ignore[attr-defined]


PAGE = ROOT / "docs" / "strategies.md"


def test_every_trait_and_phase_is_documented() -> None:
    page = PAGE.read_text()
    for name in [*(one.name for one in fields(Traits)), *HOOKS]:
        assert f"| `{name}" in page
    for phase, words in PHASES.items():
        assert f"| `{phase}` | {words.partition(':')[0]}" in page


@pytest.mark.slow
def test_the_strategy_of_the_documentation_keeps_the_laws() -> None:
    names: dict[str, Any] = {}
    exec(PAGE.read_text().partition("```python\n")[2].partition("```")[0], names)
    check_strategy(names["Bounded"])


def test_the_command_tells_hooks_with_phases_and_traits() -> None:
    text = describe()
    assert "hooks: after_backward (record), after_step (measure), end (measure)" in text
    assert "traits: rowwise=False, sets_aside=True, remakes=True" in text
    assert set(STRATEGIES) <= {line.partition("(")[0] for line in text.splitlines() if "(" in line}
