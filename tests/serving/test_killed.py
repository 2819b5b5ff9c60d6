"""A server that is killed loses no label that it has acknowledged, and doubles none."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")

from tests.support.asked import ROW, learned
from tests.support.served import ask, started


class Client:
    """Predicts rows and tells their labels, some at once and some later; it knows what was acknowledged."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, str]] = []
        self.acknowledged: dict[int, int] = {}
        self.unsure: set[int] = set()
        self.next = 0

    def talk(self, url: str, enough: threading.Event) -> None:
        """Until the server is gone."""
        draw = random.Random(self.next)
        while True:
            numbers = list(range(self.next, self.next + 3))
            self.next += 3
            try:
                rows = [{**ROW, "height": number} for number in numbers]
                self.waiting += list(zip(numbers, ask(f"{url}/predict", {"rows": rows})["ids"], strict=True))
                draw.shuffle(self.waiting)
                told = [self.waiting.pop() for _ in range(len(self.waiting) // 2)]
                self.unsure.update(number for number, _ in told)
                labels = [{"id": name, "label": number % 2} for number, name in told]
                answer = ask(f"{url}/feedback", {"feedback": labels})
            except (OSError, ValueError):
                return
            assert answer == {"accepted": len(told), "refused": []}
            self.acknowledged |= {number: number % 2 for number, _ in told}
            self.unsure.difference_update(number for number, _ in told)
            if len(self.acknowledged) > 30:
                enough.set()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.chaos)])
def test_a_killed_server_loses_and_doubles_no_label(tmp_path: Path, kills: int) -> None:
    out, journal = learned(tmp_path, every=20), tmp_path / "journal"
    options = ["--journal", str(journal), "--join-every", "0.05"]
    client, draw = Client(), random.Random(1)
    for _ in range(kills):
        with started(out, *options) as (url, pid):
            enough = threading.Event()
            talking = threading.Thread(target=client.talk, args=(url, enough))
            talking.start()
            assert enough.wait(300)
            time.sleep(draw.random() * 0.2)
            os.kill(pid, signal.SIGKILL)
            talking.join()
    with started(out, *options) as (url, _):
        # Ids that were given before are still good, and labels that were not acknowledged may be told again.
        labels = [{"id": name, "label": number % 2} for number, name in client.waiting]
        assert ask(f"{url}/feedback", {"feedback": labels})["accepted"] == len(labels)
        client.acknowledged |= {number: number % 2 for number, _ in client.waiting}
        metrics = ask(f"{url}/metrics")
        assert f"incr_journal_labelled_total {len(client.acknowledged)}\n" in metrics or client.unsure
    table: Any = pa.concat_tables([pq.read_table(path) for path in sorted((journal / "labelled").glob("*.parquet"))])
    found = dict(zip(table["height"].to_pylist(), table["y"].to_pylist(), strict=True))
    assert {number: found.get(number) for number in client.acknowledged} == client.acknowledged
    assert max(Counter(table["height"].to_pylist()).values()) == 1
    assert set(found) <= set(client.acknowledged) | client.unsure
