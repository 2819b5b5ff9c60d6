"""Which of our files run in one increment of the local engine, from rows at hand to a model that has learned them.

    python -m benchmarks.files_crossed

Traces the third increment of a small job without a commit in it, and prints each file with the functions that ran.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import incr_core
from incr_core.engines import LocalEngine
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.registry import RunDirectory

OURS = str(Path(incr_core.__file__).parent.parent)


class Tracer:
    """Notes our functions that run while it is in force, by file."""

    def __init__(self) -> None:
        self.ran: dict[str, set[str]] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(OURS) and "incr_core" in code.co_filename:
            self.ran.setdefault(str(Path(code.co_filename).relative_to(OURS)), set()).add(code.co_name)


class Traced(LocalEngine):
    """The engine of one process, whose third increment is traced."""

    tracer = Tracer()

    def receive(self) -> Any:
        """Take the next increment, and trace the third until the fourth is asked for."""
        sys.setprofile(None)
        at_hand = self.participant.increment
        if at_hand is not None and at_hand.tick.number == 1:
            sys.setprofile(self.tracer)
        return super().receive()


def main() -> None:
    """Trace, and print what ran."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        x = draw.normal(size=(800, 3))
        rows = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "label": (x.sum(1) > 0).astype(np.int8)})
        pq.write_table(rows, Path(place, "rows.parquet"))
        job = Job.from_document(
            {
                "name": "traced",
                "stream": {"path": str(Path(place, "rows.parquet")), "every": 100},
                "features": {"label": "label"},
                "learner": {"objective": "binary"},
                "publish": {"every": 100},
            }
        ).resolved()
        out = Path(place, "run")
        with RunDirectory.create(out, job.toml(), "traced") as directory:
            Loop(job, Traced(job, out), directory).run()
    sys.setprofile(None)
    for file, functions in sorted(Traced.tracer.ran.items()):
        print(f"{file:50} {', '.join(sorted(functions))}")
    print(len(Traced.tracer.ran), "files")


if __name__ == "__main__":
    main()
