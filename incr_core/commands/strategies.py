"""`incr strategies`: the strategies, described from their code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

from incr_core.strategies import HOOKS, STRATEGIES, Strategy

__all__ = ["describe"]


def describe(names: Sequence[str] = ()) -> str:
    """Return the description of each strategy: arguments, docstring without its example, hooks and traits.

    Args:
        names: Names of strategies. Without names, all strategies are described.

    Raises:
        JobError: A name is not that of a strategy.

    Example:
        >>> [line for line in describe().splitlines() if line.startswith(("replay(", "slda("))]
        ["replay(capacity=5000, ratio=1.0, memory='reservoir', ttl=None)", 'slda()']
    """
    kinds = {name: STRATEGIES.find(name, "strategies") for name in names or sorted(STRATEGIES)}
    return "\n\n".join(_entry(name, kind) for name, kind in kinds.items())


def _entry(name: str, kind: type[Strategy]) -> str:
    arguments = ", ".join(
        parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
        for parameter in inspect.signature(kind).parameters.values()
        # The signature of a strategy without arguments is that of nn.Module: *args and **kwargs.
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )
    text = re.sub(r"\nExample:\n(?: .*\n?|\n)*", "\n", inspect.cleandoc(kind.__doc__ or "")).strip()
    phases = kind.traits.phases
    hooks = [
        f"{hook} ({phases[hook]})" if hook in phases else hook
        for hook in HOOKS
        if getattr(kind, hook) is not getattr(Strategy, hook)
    ]
    shared = ", ".join(f"{state} ({rule})" for state, rule in kind.traits.shared.items())
    traits = [f"{name}={value!r}" for name, value in kind.traits.declared().items() if name not in ("phases", "shared")]
    lines = [f"{name}({arguments})"]
    lines += [f"    {line}".rstrip() for line in text.splitlines()]
    lines += ["", f"    hooks: {', '.join(hooks)}", f"    shared: {shared or 'nothing leaves the participant'}"]
    lines += [f"    traits: {', '.join(traits)}"] if traits else []
    return "\n".join(lines)
