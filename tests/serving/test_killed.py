"""A server and a trainer that are killed lose no label that was acknowledged, double none, and learn each once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.processes import trainer, wait_until

pytest.importorskip("httptools")

from incr_core.commands.audit import audit
from incr_core.runs import Run
from tests.support.asked import ROW, learned_folder
from tests.support.served import ask, started


class Client:
    """Predicts rows and tells their labels, some at once and some later; it knows what was acknowledged."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, str]] = []
        self.acknowledged: dict[int, int] = {}
        self.unsure: dict[int, str] = {}  # told, without an answer
        self.next = 0

    def talk(self, url: str, enough: threading.Event) -> None:
        """Until the server is gone."""
        draw, before = random.Random(self.next), len(self.acknowledged)
        while True:
            numbers = list(range(self.next, self.next + 3))
            self.next += 3
            try:
                rows = [{**ROW, "height": number} for number in numbers]
                self.waiting += list(zip(numbers, ask(f"{url}/predict", {"rows": rows})["ids"], strict=True))
                draw.shuffle(self.waiting)
                told = [self.waiting.pop() for _ in range(len(self.waiting) // 2)]
                self.unsure |= dict(told)
                labels = [{"id": name, "label": number % 2} for number, name in told]
                answer = ask(f"{url}/feedback", {"feedback": labels})
            except (OSError, ValueError, HTTPException):  # killed before, or in the middle of an answer
                return
            assert answer == {"accepted": len(told), "refused": []}
            self.acknowledged |= {number: number % 2 for number, _ in told}
            self.unsure = {number: name for number, name in self.unsure.items() if number not in self.acknowledged}
            if len(self.acknowledged) - before > 30:
                enough.set()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.chaos)])
def test_killed_servers_and_trainers_lose_nothing_and_learn_nothing_twice(tmp_path: Path, kills: int) -> None:
    out, data = learned_folder(tmp_path)
    options = ["--journal", str(tmp_path / "journal"), "--labelled", str(data), "--join-every", "0.05"]
    client, draw = Client(), random.Random(1)
    with ExitStack() as both:
        learning = both.enter_context(trainer(tmp_path / "job.toml", out))
        for kill in range(kills):
            with started(out, *options) as (url, pid):
                enough = threading.Event()
                talking = threading.Thread(target=client.talk, args=(url, enough))
                talking.start()
                assert enough.wait(300)
                time.sleep(draw.random() * 0.2)
                if kill % 2:
                    learning.kill()
                    learning.wait()
                    learning = both.enter_context(trainer(tmp_path / "job.toml", out))
                os.kill(pid, signal.SIGKILL)
                talking.join()
        with started(out, *options) as (url, _):
            # Ids that were given before are still good, and labels that were not acknowledged may be told again.
            told = [*client.waiting, *client.unsure.items()]
            labels = [{"id": name, "label": number % 2} for number, name in told]
            answer = ask(f"{url}/feedback", {"feedback": labels})
            assert {one["status"] for one in answer["refused"]} <= {409}
            assert {told[one["feedback"]][0] for one in answer["refused"]} <= set(client.unsure)
            assert answer["accepted"] + len(answer["refused"]) == len(told)
            client.acknowledged |= {number: number % 2 for number, _ in told}
            assert f"incr_journal_labelled_total {len(client.acknowledged)}\n" in ask(f"{url}/metrics")
        table: Any = pa.concat_tables([pq.read_table(path) for path in sorted(data.glob("feedback-*.parquet"))])
        wait_until(lambda: Run(out).summary.rows_learned >= 60 + len(table), learning)
    found = dict(zip(table["height"].to_pylist(), table["y"].to_pylist(), strict=True))
    assert {number: found.get(number) for number in client.acknowledged} == client.acknowledged
    assert max(Counter(table["height"].to_pylist()).values()) == 1
    assert set(found) == set(client.acknowledged)
    audited = audit(out)
    assert (audited.holds, audited.states.states["learned"]) == (True, 60 + len(table))
