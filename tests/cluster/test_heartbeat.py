"""Who is silent, and who is stuck: told apart by the beats, whatever the moment of the last one."""

from __future__ import annotations

from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not re-exported for type checkers

from cluster._heartbeat import Beat, Pulse

Beats = dict[float, Beat]


def heard(*workers: Beats, until: float, may_run: bool = False) -> list[tuple[int, str]]:
    """What a pulse with a timeout of 10 s, asked each second, tells of workers with these beats, by their times."""
    store, now = HashStore(), [0.0]
    keys = [f"alive/{place}" for place in range(len(workers))]
    pulse = Pulse(store, keys, 10.0, 60.0, clock=lambda: now[0], starved=lambda place: may_run)
    while now[0] < until:
        for key, beats in zip(keys, workers, strict=True):
            if now[0] in beats:
                store.set(key, str(beats[now[0]]))
        if lost := pulse.lost():
            return [(one.place, one.told) for one in lost]
        now[0] += 1.0
    return []


STOPPED = {0.0: Beat(1, 1.0, "working"), 2.0: Beat(2, 1.0, "working")}
"""Its last beat came after it last used its processor, so it has rested for longer than it has been silent."""
HANGS = {float(at): Beat(at + 1, 1.0, "working") for at in range(0, 100, 2)}
SILENT, STUCK = "gave no sign of life for 10 s", "was stuck for 10 s: it hangs in something that does not return"


def test_who_is_stopped_while_working_is_silent_and_not_stuck() -> None:
    assert heard(STOPPED, until=60.0) == [(0, SILENT)]


def test_who_beats_without_using_its_processor_is_stuck() -> None:
    assert heard(HANGS, until=60.0) == [(0, STUCK)]


def test_who_waits_for_one_that_is_stopped_is_not_the_one_that_is_lost() -> None:
    assert heard(HANGS, STOPPED, until=60.0) == [(1, SILENT)]


def test_who_has_no_time_on_its_host_is_neither() -> None:
    assert heard(STOPPED, until=90.0, may_run=True) == []
