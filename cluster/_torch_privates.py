"""What the cluster uses of torch.distributed under private names, since it has no public way. Tested with torch 2.13.

A process has one default group, and groups beside it are built of it; ours between replicas are of processes that have
other default groups. So they are built directly, and asked directly.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from incr_core.errors import IncrError

__all__ = ["nccl_group"]

TESTED = "2.13"


def nccl_group(store: Any, rank: int, size: int, patience: timedelta) -> Any:
    """A group of GPUs whose members wait for one another for so long."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = patience
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _check() -> None:
    """IncrError where this torch keeps something elsewhere."""
    if dist.is_nccl_available() and not hasattr(dist.ProcessGroupNCCL.Options, "_timeout"):
        raise IncrError(
            f"torch {torch.__version__}: expected torch.distributed's private names _timeout, found none; "
            f"incr was tested with torch {TESTED}: pip install 'torch=={TESTED}.*'"
        )


_check()
