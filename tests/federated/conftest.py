"""A small federation of owners, and grids on which they are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.federations import federation

# Flower is imported by who needs it.
if TYPE_CHECKING:
    from tests.support.owners_grid import OwnersGrid


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of three clients, whose rows are below `tmp_path`."""
    return federation(tmp_path)


@pytest.fixture
def grid(files: list[Path]) -> Iterator[Callable[..., OwnersGrid]]:
    """Makes a grid of these owners, with habits as `OwnersGrid` has them; it is closed in the end."""
    from tests.support.owners_grid import OwnersGrid

    with ExitStack() as made:
        yield lambda **habits: made.enter_context(OwnersGrid(files, **habits))
