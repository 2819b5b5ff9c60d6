"""Files of incr that run in one increment of the local engine, from rows in memory to a model that has learned them.

    python -m benchmarks.files_crossed

Traces the third increment of a small job without a commit in it, and prints each file with the functions that ran, in
three groups:

- the main path: files of the packages that an increment passes through (`ROOMS`) and that call functions of another
  file of these packages. They show the order of events;
- its ends: files of the same packages that call none of the others, such as a record, the outer step or the
  optimiser's;
- leaves: files of all other packages (metrics, numerics, objectives, models, ...).

A file is counted once. A property counts as a function. The thread that reads ahead is not traced.
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

ROOMS = ("loop", "engines", "rounds", "learner", "data")
"""Increments come from data, and the loop lets an engine take rounds of its learners."""


class Tracer:
    """Notes our functions that run while it is in force, by file, and which files call which."""

    def __init__(self) -> None:
        self.ran: dict[str, set[str]] = {}
        self.calls: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What `sys.setprofile` calls."""
        if event != "call" or (file := _ours(frame)) is None:
            return
        self.ran.setdefault(file, set()).add(frame.f_code.co_name)
        caller = frame.f_back
        while caller is not None and _ours(caller) is None:
            caller = caller.f_back
        if caller is not None:
            self.calls.add((str(_ours(caller)), file))


def _ours(frame: FrameType) -> str | None:
    """The file of ours that a frame runs in, None in another's."""
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(OURS)) if path.is_relative_to(OURS) else None


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
    inside = {file for file in ran if file.partition("/")[0] in ROOMS}
    path = {one for one, other in Traced.tracer.calls if one != other and {one, other} <= inside}
    for title, files in (("main path", path), ("its ends", inside - path), ("leaves", ran.keys() - inside)):
        print(f"{title}: {len(files)} files")
        for file in sorted(files):
            print(f"  {file:40} {', '.join(sorted(ran[file]))}")


if __name__ == "__main__":
    main()
