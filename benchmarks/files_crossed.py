"""Which of our files run in one increment of the local engine, from rows at hand to a model that has learned them.

    python -m benchmarks.files_crossed

Traces the third increment of a small job without a commit in it. Prints each file with the functions that ran: first the
main path, that is the files of the rooms through which an increment goes (`MAIN`), which a reader follows to know what
happens in what order; then the leaves, which are functions of their arguments alone and need not be opened for that:
metrics, numerics, objectives, models, checks, and the records that pass between rooms. A file is counted once, whatever
runs of it; a comprehension or a property is a function like any other; what runs in the thread that reads ahead is not
seen.
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

OURS = Path(incr_core.__file__).parent

MAIN = ("loop", "engines", "rounds", "learner", "data")
"""The rooms of the main path: increments come from data, and the loop lets an engine take rounds of its learners."""


class Tracer:
    """Notes our functions that run while it is in force, by file."""

    def __init__(self) -> None:
        self.ran: dict[str, set[str]] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(OURS)):
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
    ran = Traced.tracer.ran
    path = {file for file in ran if file.partition("/")[0] in MAIN}
    for title, files in (("main path", path), ("leaves", ran.keys() - path)):
        print(f"{title}: {len(files)} files")
        for file in sorted(files):
            print(f"  {file:40} {', '.join(sorted(ran[file]))}")


if __name__ == "__main__":
    main()
