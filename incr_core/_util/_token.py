"""The token that a server expects of its clients."""

from __future__ import annotations

import os
from pathlib import Path

from incr_core.errors import ArgumentError

__all__ = ["read_token"]

TOKEN = "INCR_TOKEN"
"""Environment variable of the token, if no file has it."""


def read_token(file: str | None) -> str | None:
    """Return the token in a file, or that of the environment; None if there is none.

    Raises:
        ArgumentError: The file cannot be read, or has no token.

    Example:
        >>> read_token("/nowhere/token")
        Traceback (most recent call last):
        ...
        incr_core.errors.ArgumentError: --token-file /nowhere/token: cannot be read: ...; name a text file
    """
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"--token-file {file}: cannot be read: {error}; name a text file") from None
    if not token or not token.isascii():
        raise ArgumentError(f"--token-file {file}: expected a token in ASCII, got none; write one into it")
    return token
