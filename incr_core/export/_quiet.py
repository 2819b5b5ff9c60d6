"""Silence for libraries that tell, while they export, what nobody can act on."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or prints, such as that torchvision is not installed; what matters is raised.

    >>> with quiet():
    ...     print("def forward(self, ...)")
    ...     logging.warning("Please consider ...")
    """
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # or `logging.warning` gives the root logger one, for good
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
