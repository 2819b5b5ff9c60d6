"""Packages whose exports are imported when they are asked for: torch takes seconds that `incr status` need not wait."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["exported"]


def exported(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package that imports what it exports under `TYPE_CHECKING` alone.

    These imports are read from its source, so they are written once, where type checkers look for them:

        if TYPE_CHECKING:
            from package._module import name
        else:
            __getattr__, __dir__ = exported(__name__)

    >>> get, names = exported("incr_core.storage")
    >>> get("sha256")(b"")[:8], "Lock" in names()
    ('e3b0c442', True)
    >>> get("nothing")
    Traceback (most recent call last):
    ...
    AttributeError: module 'incr_core.storage' has no attribute 'nothing'
    """
    module = sys.modules[package]
    assert module.__file__ is not None
    homes = _imports(ast.parse(Path(module.__file__).read_bytes()))

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(module, name, value)
        return value

    return get, lambda: sorted({*vars(module), *homes})


def _imports(tree: ast.Module) -> dict[str, str]:
    """Name -> the module that it is imported from, where that is done for type checkers alone."""
    return {
        alias.name: str(node.module)
        for block in tree.body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
