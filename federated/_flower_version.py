"""The Flower that incr was tested with, and what is said of one that lacks a name of its own which we use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import flwr

from incr_core.errors import IncrError

__all__ = ["TESTED", "fault", "undocumented"]

TESTED = "1.41.0"


def fault(expected: str, got: str) -> IncrError:
    """What is said of another Flower."""
    return IncrError(
        f"flwr {flwr.__version__}: expected {expected} as in flwr {TESTED}, with which incr was tested, got {got}; "
        f"pip install 'flwr=={TESTED}'"
    )


@contextmanager
def undocumented() -> Iterator[None]:
    """Within, names that Flower's documentation does not have are imported. IncrError where one is gone."""
    try:
        yield
    except ImportError as error:
        raise fault("its undocumented names", str(error)) from error
