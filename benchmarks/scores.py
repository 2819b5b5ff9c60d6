"""Scores of runs, stored as they are made: a killed benchmark loses only the run in progress."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Scores", "spread"]


class Scores:
    """One line for each run in a JSON file: what was run, under `run`, and what came out of it, under `scores`.

    peers: figures of others for the same thing, kept beside for whoever reads the file.
    """

    def __init__(self, path: Path, peers: dict[str, Any]) -> None:
        self.path = path
        self.peers = peers
        self.lines: list[dict[str, Any]] = json.loads(path.read_text())["lines"] if path.exists() else []

    def find(self, run: dict[str, Any]) -> dict[str, float] | None:
        """The scores of just this run, if it was made before."""
        return next((line["scores"] for line in self.lines if line["run"] == run), None)

    def add(self, run: dict[str, Any], scores: dict[str, float]) -> None:
        """Keep a run's scores, in the place of those of the same run with other settings."""
        stale = {name: value for name, value in run.items() if name != "settings"}
        self.lines = [line for line in self.lines if not stale.items() <= line["run"].items()]
        self.lines.append({"run": run, "scores": scores})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(".new")
        text = ",\n".join(json.dumps(line) for line in self.lines)
        written.write_text(f'{{"peers": {json.dumps(self.peers)},\n"lines": [\n{text}\n]}}\n')
        os.replace(written, self.path)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
