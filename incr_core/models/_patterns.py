"""Selection of a model's parts by name patterns."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from incr_core.errors import ArgumentError
from incr_core.models._penultimate import head_of

__all__ = ["Patterns", "matches", "modules_matching", "only_these_learn", "replace_head", "replace_module"]

Patterns = str | Sequence[str]


def matches(name: str, patterns: Patterns) -> bool:
    """Whether a dotted name matches any of the patterns; `*` matches any text, including dots.

    Example:
        >>> matches("layers.0.weight", "layers.*"), matches("head.weight", ["layers.*", "body"])
        (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def modules_matching(
    model: nn.Module, patterns: Patterns, kinds: tuple[type[nn.Module], ...], place: str
) -> list[tuple[str, nn.Module]]:
    """Return modules of the given kinds whose name matches, as (name, module), in the model's order.

    Raises:
        ArgumentError: There is none; the message lists similar names.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> [name for name, _ in modules_matching(model, "*", (nn.Linear,), "example")]
        ['0', '2']
    """
    right = [(name, module) for name, module in model.named_modules() if name and isinstance(module, kinds)]
    found = [(name, module) for name, module in right if matches(name, patterns)]
    if not found:
        raise _none(place, patterns, [name for name, _ in right], " or ".join(kind.__name__ for kind in kinds))
    return found


def only_these_learn(model: nn.Module, patterns: Patterns, place: str) -> None:
    """Freeze every weight whose name does not match. Matching weights stay trainable, unless they are frozen already.

    A pattern that names a module matches all its weights.

    Raises:
        ArgumentError: A pattern matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> only_these_learn(model, "1", "example")
        >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
        ['1.weight', '1.bias']
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [name for name in names if matches(name, [pattern, f"{pattern}.*"])]
        if not found:
            raise _none(place, pattern, names, "weight")
        chosen.update(found)
    for name, weight in model.named_parameters():
        if name not in chosen:
            weight.requires_grad_(False)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called `name` by `module`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> replace_module(model, "0", nn.Identity())
        >>> model[0]
        Identity()
    """
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def replace_head(model: nn.Module, place: str, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Replace the last linear layer by the result of `make`; `place` is used in error messages.

    Example:
        >>> replace_head(nn.Sequential(nn.Linear(2, 3)), "example", lambda last: nn.Identity())
        Sequential(
          (0): Identity()
        )
    """
    last = head_of(model, place)
    name = next((name for name, module in model.named_modules() if module is last), "")
    if not name:
        raise ArgumentError(f"{place}: expected a model around its last layer, got a bare nn.Linear; wrap it")
    replace_module(model, name, make(last).to(last.weight.device))
    return model


def _none(place: str, patterns: Patterns, names: Sequence[str], kind: str) -> ArgumentError:
    wanted = patterns if isinstance(patterns, str) else ", ".join(patterns)
    near = difflib.get_close_matches(wanted, names, 3, 0.4) or list(names[:5])
    return ArgumentError(
        f"{place}: expected a pattern that matches a {kind}, got {wanted!r}; "
        f"the model has {', '.join(near) if near else 'none'}{', ...' if len(names) > len(near) else ''}"
    )
