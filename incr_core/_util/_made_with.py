"""Objects that know the arguments they were made with, so that equal ones can be made elsewhere."""

from __future__ import annotations

from typing import Any, Self

__all__ = ["MadeWith", "made_with"]


class MadeWith:
    """A base whose instances keep their constructor's arguments.

    >>> class Point(MadeWith):
    ...     def __init__(self, x, y=0):
    ...         self.x, self.y = x, y
    >>> made_with(Point(1, y=2))
    ((1,), {'y': 2})
    """

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        # Past any __setattr__ of a class below, which may count on its __init__.
        object.__setattr__(made, "_made_with", (args, kwargs))
        return made


def made_with(made: MadeWith) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional arguments and the named ones of an object's constructor."""
    return made._made_with
