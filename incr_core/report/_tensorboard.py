"""Event files of TensorBoard with the metrics of every increment, written at each commit."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from incr_core.errors import JobError
from incr_core.registry import RunDirectory
from incr_core.storage import expose, remove, storage

__all__ = ["TensorBoard"]


class TensorBoard:
    """Event files in DIR/tensorboard: a scalar for every number of an increment, its step the increment.

    The files contain committed increments only, each once: a resumed run writes them again from the tables.
    `tensorboard --logdir DIR` shows them while the run goes on.

    directory: the run directory. Raises JobError if tensorboard is not installed.
    """

    def __init__(self, directory: RunDirectory) -> None:
        try:
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ModuleNotFoundError as missing:
            raise JobError(
                f"track.tensorboard: needs {missing.name}, which is not installed; pip install 'incr[track]'"
            ) from missing
        self._directory = directory
        folder = Path(directory.path, "tensorboard")
        with storage(folder):
            remove(folder)
            folder.mkdir()
            self._file = open(folder / f"events.out.tfevents.{time.time_ns()}.incr", "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._version = 0
        self._write(file_version="brain.Event:2")

    def follow(self) -> None:
        """Write the increments committed since the last call."""
        latest = self._directory.latest() or 0
        if latest > self._version:
            for row in self._directory.table("metrics", self._version + 1, latest).to_pylist():
                step = row.pop("increment")
                self._write(step=step, summary={"value": list(_scalars(row))})
            self._version = latest
        self._file.flush()

    def close(self) -> None:
        """Write the rest."""
        self.follow()
        self._file.close()
        expose(Path(self._file.name))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())


def _scalars(row: dict[str, Any]) -> Any:
    """The numbers of an increment, by their name in the table of metrics with the group before a slash."""
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            continue
        yield {"tag": name.replace(".", "/", 1), "simple_value": float(value)}
