"""What signals mean to a run."""

from __future__ import annotations

import signal
import threading

import pytest

from incr_core._util import WAKE, Stopped, set_by_signals, waiting


def test_waking_ends_a_wait_and_a_request_to_stop_after_it_counts() -> None:
    with set_by_signals(stop := threading.Event()):
        signal.raise_signal(WAKE)  # nobody waits
        with pytest.raises(Stopped), waiting():
            signal.raise_signal(WAKE)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
