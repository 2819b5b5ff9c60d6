"""Who is silent, and who is stuck: told apart by the beats, whatever the moment of the last one."""

from __future__ import annotations

from torch.distributed import HashStore

from cluster.heartbeat import Beat, Pulse


def heard(beats: dict[float, Beat], until: float, *, may_run: bool = False) -> list[str]:
    """What a pulse with a timeout of 10 s, asked each second, tells of a worker with these beats, by their time."""
    store, now = HashStore(), [0.0]
    pulse = Pulse(store, ["alive"], 10.0, 60.0, clock=lambda: now[0], starved=lambda place: may_run)
    while now[0] < until:
        if now[0] in beats:
            store.set("alive", str(beats[now[0]]))
        if lost := pulse.lost():
            return [one.told for one in lost]
        now[0] += 1.0
    return []


def test_who_is_stopped_while_working_is_silent_and_not_stuck() -> None:
    """Its last beat came after it last used its processor, so it has rested for longer than it has been silent."""
    stopped = {0.0: Beat(1, 1.0, "working"), 2.0: Beat(2, 1.0, "working")}
    assert heard(stopped, 60.0) == ["gave no sign of life for 10 s"]


def test_who_beats_without_using_its_processor_is_stuck() -> None:
    hangs = {float(at): Beat(at + 1, 1.0, "working") for at in range(0, 60, 2)}
    assert heard(hangs, 60.0) == ["was stuck for 10 s: it hangs in something that does not return"]


def test_who_has_no_time_on_its_host_is_neither() -> None:
    starved = {0.0: Beat(1, 1.0, "working"), 2.0: Beat(2, 1.0, "working")}
    assert heard(starved, 90.0, may_run=True) == []
