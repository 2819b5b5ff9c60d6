"""Cost of creating a gloo group, as replicas do, measured with threads of this process."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import torch

from cluster._process_groups import between_replicas
from cluster._rank import Rank
from cluster._rendezvous import Rendezvous


def groups(workers: int) -> dict[str, float]:
    """What it takes so many workers to make a group of gloo, and to tell one another their counts, as threads."""
    meeting, _store = Rendezvous.open("127.0.0.1", timedelta(minutes=5))
    seconds: list[tuple[float, float]] = []
    barrier = threading.Barrier(workers)

    def worker(rank: int) -> None:
        place, store = Rank(rank, workers, 0, 1), meeting.join()
        barrier.wait()
        begun = time.perf_counter()
        group = between_replicas(place, store, 1, "cpu", timedelta(minutes=5))
        made = time.perf_counter()
        counts = torch.zeros(workers, dtype=torch.int64)
        for _ in range(3):
            group.alltoall_base(torch.empty_like(counts), counts, [], []).wait()
        seconds.append((made - begun, (time.perf_counter() - made) / 3))
        barrier.wait()

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "workers": workers,
        "seconds_to_form": round(max(made for made, _ in seconds), 3),
        "seconds_to_count": round(max(counted for _, counted in seconds), 4),
    }
