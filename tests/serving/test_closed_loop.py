"""A stream replayed through a server, whose labels come back later: each row is predicted once, and learned once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

pytest.importorskip("httptools")

from incr_core.job import Job
from incr_core.runs import Run, run
from tests.support.served import ask, started
from tests.support.streams import flights

PERIODS, WARM = 4, 400
"""How often what is labelled is learned; the rows that there are at the beginning."""


def rows() -> pa.Table:
    """Two days of rows whose label is told by x, and by nothing else."""
    table = flights(1200)
    late = pa.array((table["x"].to_numpy() > 0).astype(np.int64))
    return table.set_column(table.column_names.index("late"), "late", late)


def job(folder: Path) -> Job:
    rates = [{"by": ["carrier"], "window": "6h"}]
    rates.append({"by": ["carrier"], "window": "6h", "outcome": "gain", "known_at": "seen"})
    document = {
        "stream": {"path": str(folder), "every": "1h", "predict_at": "at", "label_at": "known"},
        "features": {"label": "late", "numeric": ["x", "n"], "categorical": ["carrier"], "rate": rates},
        "model": {"hidden": [16]},
        "learner": {"objective": "binary", "optimizer": {"name": "adam", "lr": 0.02}},
    }
    return Job.from_document(document).resolved()


def told(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Columns of a row as JSON has them."""
    return {name: str(value) if hasattr(value := row[name], "year") else value for name in names}


@pytest.mark.slow
def test_what_is_served_is_learned_and_what_is_learned_is_served(tmp_path: Path) -> None:
    whole, data = rows(), tmp_path / "data"
    data.mkdir()
    pq.write_table(whole.slice(0, WARM), data / "a.parquet")
    out = tmp_path / "run"
    run(job(data), out)
    learned_before = Run(out).summary.rows_learned
    served: list[tuple[int, float, int]] = []  # version, answer, label
    waiting: list[tuple[Any, str, dict[str, Any]]] = []  # when a label is known, and of what
    options = ["--journal", str(tmp_path / "journal"), "--labelled", str(data), "--join-every", "0.05"]
    with started(out, *options) as (url, _):
        edges = np.linspace(WARM, len(whole), PERIODS + 1).astype(int).tolist()
        for start, stop in pairwise(edges):
            period = whole.slice(start, stop - start).to_pylist()
            for first in range(0, len(period), 20):
                asked = period[first : first + 20]
                question = [told(row, "x", "n", "carrier", "at") for row in asked]
                answer = ask(f"{url}/predict", {"rows": question})
                assert answer["refused"] == []
                for row, name, found in zip(asked, answer["ids"], answer["predictions"], strict=True):
                    served.append((answer["version"], found["probability"], row["late"]))
                    waiting.append((row["known"], name, row))
            # What is known by now is told, the rest in a later period.
            now = period[-1]["at"]
            known = [one for one in waiting if one[0] <= now or stop == len(whole)]
            waiting = [one for one in waiting if not (one[0] <= now or stop == len(whole))]
            labels = [
                {"id": name, "label": row["late"], **told(row, "known", "gain", "seen")} for _, name, row in known
            ]
            labels = [{name: value for name, value in label.items() if value != "None"} for label in labels]
            assert ask(f"{url}/feedback", {"feedback": labels}) == {"accepted": len(labels), "refused": []}
            files = 0
            while files < len(labels):  # until all of them are in files
                files = sum(len(pq.read_table(path)) for path in data.glob("feedback-*.parquet")) - (
                    len(served) - len(waiting) - len(labels)
                )
            before = Run(out).champion.number
            run(job(data), out)
            after = Run(out).champion.number
            assert after > before
            while ask(f"{url}/version")["version"] != after:
                pass
        metrics = ask(f"{url}/metrics")
    [swaps] = [line.split()[1] for line in metrics.splitlines() if line.startswith("incr_swaps_total ")]
    assert int(swaps) >= PERIODS
    # Every row was predicted, by several versions, and learned once: none is bad, a duplicate, or left.
    assert len(served) == len(whole) - WARM
    assert len({version for version, _, _ in served}) == PERIODS
    assert Run(out).summary.rows_learned == len(whole) >= learned_before
    assert len(Run(out).table("quarantine")) == 0
    joined = pa.concat_tables([pq.read_table(path) for path in sorted(data.glob("feedback-*.parquet"))])
    expected = whole.slice(WARM)
    for name in ("x", "n", "gain", "seen", "late"):
        assert sorted(pc.drop_null(joined[name]).to_pylist()) == sorted(pc.drop_null(expected[name]).to_pylist())
    last = [(answer, label) for version, answer, label in served if version == served[-1][0]]
    right = sum((answer > 0.5) == label for answer, label in last)
    assert right > 0.9 * len(last)
