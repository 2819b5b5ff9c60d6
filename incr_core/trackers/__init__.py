"""Trackers: committed increments, delivered to TensorBoard, MLflow, or a class of a user.

A thread for each tracker reads the run directory and delivers new commits. A run waits for trackers only at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incr_core._util import exported

if TYPE_CHECKING:
    from incr_core.trackers._base import Commit, TrackedRun, Tracker
    from incr_core.trackers._mlflow import MLflow
    from incr_core.trackers._tensorboard import TensorBoard
    from incr_core.trackers._trackers import TRACKERS, Trackers
else:
    __getattr__, __dir__ = exported(__name__)

__all__ = ["TRACKERS", "Commit", "MLflow", "TensorBoard", "TrackedRun", "Tracker", "Trackers"]
