"""TensorBoard: event files with the metrics of every increment."""

from __future__ import annotations

from pathlib import Path

from incr_core.storage import expose, remove, storage
from incr_core.trackers._base import Commit, TrackedRun, Tracker

__all__ = ["TensorBoard"]


class TensorBoard(Tracker):
    """Event files in DIR/tensorboard: a scalar for every number of an increment, with the increment as its step.

    A resumed run writes the files again from the tables, so that every committed increment is in them once. After a
    rollback, TensorBoard shows the increments since then as they were learned the second time.
    `tensorboard --logdir DIR` shows the files while the run goes on.

    Args:
        run: The run to follow.
    """

    def __init__(self, run: TrackedRun) -> None:
        super().__init__(run)
        self._folder = run.path / "tensorboard"
        with storage(self._folder):
            remove(self._folder)
        self._begin(None)

    def _begin(self, from_step: int | None) -> None:
        """Open another file; TensorBoard then ignores `from_step` and later steps of earlier files."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=from_step)

    def position(self) -> int:
        """Return 0: the files are written again."""
        return 0

    def follow(self, commit: Commit) -> None:
        """Write the increments."""
        if commit.restores is not None:
            self._writer.close()
            self._begin(int(commit.manifest["increment"]) + 1)
        for step, numbers in commit.scalars():
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step, walltime=commit.created.timestamp())
        self._writer.flush()

    def close(self, finished: bool | None) -> None:
        """Close the file, and copy the files of a run at an address there."""
        self._writer.close()
        for file in sorted(Path(self._folder).iterdir()):
            expose(file)
