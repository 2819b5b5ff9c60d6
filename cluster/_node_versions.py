"""Versions of Python, torch and incr, which must be equal on every node so that all replicas compute the same."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import incr_core
from incr_core.errors import JobError

__all__ = ["require_same", "versions_here"]

CODE = [Path(incr_core.__file__).parent, Path(__file__).parent]


@cache
def versions_here() -> dict[str, str]:
    """Return the versions in this process, with a hash of incr's code. The local build tag of torch is ignored.

    Example:
        >>> sorted(versions_here())
        ['Python', 'incr', 'torch']
    """
    code = hashlib.sha256()
    for folder in CODE:
        for path in sorted(folder.rglob("*.py")):
            code.update(str(path.relative_to(folder.parent)).encode() + path.read_bytes())
    try:
        installed = version("incr")
    except PackageNotFoundError:  # for example beside the job
        installed = "not installed"
    return {
        "Python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "incr": f"{installed} (code {code.hexdigest()[:8]})",
    }


def require_same(wanted: Mapping[str, str], who: str) -> None:
    """Raise JobError if this process has other versions than the driver.

    Example:
        >>> require_same(versions_here(), "replica 1")
        >>> require_same(versions_here() | {"torch": "0.4.1"}, "replica 1")
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: cluster: expected replica 1 on ... to have torch 0.4.1, as the loop's host has,
        got ...; install the same on every node, or send incr along (ray job submit --working-dir)
    """
    for name, here in versions_here().items():
        if here != wanted[name]:
            raise JobError(
                f"cluster: expected {who} on {socket.gethostname()} to have {name} {wanted[name]}, as the loop's host "
                f"has, got {here}; install the same on every node, or send incr along (ray job submit --working-dir)"
            )
