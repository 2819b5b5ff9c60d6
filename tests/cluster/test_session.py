"""Where a Ray cluster is looked for."""

from __future__ import annotations

import socket

import pytest
import ray

from cluster.session import Session
from incr_core.errors import JobError


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    if ray.is_initialized():
        pytest.skip("this process is on a Ray cluster already")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(JobError, match=f"cluster.address: expected a Ray cluster at '{address}', got: .*refused"):
            Session(address, workers=1)
