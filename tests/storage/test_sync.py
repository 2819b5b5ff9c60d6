"""Files are waited for side by side, by threads that stay."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path

import pytest

from incr_core.storage import sync_all


def test_threads_stay_and_are_few(tmp_path: Path) -> None:
    for _ in range(5):
        sync_all([tmp_path] * 8)
    named = [one.name for one in threading.enumerate() if one.name.startswith("incr-sync")]
    assert 0 < len(named) <= 4


def test_what_the_disk_refuses_is_raised_once_all_have_ended(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_all([tmp_path / "none", *[tmp_path] * 8])


def test_a_process_that_was_forked_starts_its_own(tmp_path: Path) -> None:
    sync_all([tmp_path])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if not child:
        signal.alarm(60)  # it would wait for ever
        sync_all([tmp_path])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
