"""Suppression of messages that libraries print during an export and that need no action."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, log lines and prints, such as the note that torchvision is missing. Errors are raised.

    Example:
        >>> with quiet():
        ...     print("def forward(self, ...)")
        ...     logging.warning("Please consider ...")
    """
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # otherwise `logging.warning` gives the root logger a permanent handler
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
