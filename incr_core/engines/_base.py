"""The protocol of an engine: where learners live and how updates travel.

The loop drives every engine the same way for each increment:

    arrivals = engine.receive()        every participant predicts what arrives and tells what it has to learn
    round = engine.learn(arrivals)     rounds of: adopt, learn, exchange, outer step
    engine.order(orders)               before or after: what else participants are to do; mostly nothing
    engine.save(version)               at a commit, participants keep their state under that version

Engines are found by name, most among the entry points of the group `incr.engines` (`engine_named`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from incr_core._util import Catalogue, file_of
from incr_core.errors import EngineError, JobError
from incr_core.numerics import settle_arithmetic
from incr_core.registry import state_folder
from incr_core.rounds import Arrival, Orders, Round
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["Commit", "Engine", "engine_named"]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a run goes on from: a version, its weights, and what the engine itself kept with it."""

    version: int
    weights: Weights
    engine: Mapping[str, Any]


class Engine:
    """Drive participants through increments. Subclasses say where participants live.

    job: what to run; directory: the run directory, under whose `state/` participants keep theirs.
    """

    name = "engine"

    def __init__(self, job: Job, directory: Path) -> None:
        # Whoever merges updates must round as those do who made them.
        settle_arithmetic(job.learner.threads)
        self.job = job
        self.directory = directory

    @property
    def participants(self) -> list[str]:
        """Names of the participants, in the order of their shares in every sum."""
        raise NotImplementedError

    @property
    def fragments(self) -> Sequence[str]:
        """Paths of the stream's fragments by number, as far as they are known."""
        raise NotImplementedError

    def start(self, commit: Commit | None) -> None:
        """Begin anew, or go on from a commit; whatever was learned since is gone."""
        raise NotImplementedError

    def receive(self) -> list[Arrival]:
        """Let every participant take its next increment; empty when the stream has ended."""
        raise NotImplementedError

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Learn the increment at hand, or instead `rows` of the history, once more and in one round.

        rows: row ids (n,) by participant. Of none, the increment is skipped: its rows are let go, those that `arrivals`
        tell afterwards.
        """
        raise NotImplementedError

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all participants do this, and then stand at these weights, before an increment is learned or after."""
        raise NotImplementedError

    def save(self, version: int) -> dict[str, Any]:
        """Let participants keep their state for this version; returns what the engine itself must keep."""
        raise NotImplementedError

    def weights(self) -> Weights:
        """The weights all participants stand at, whole, on the CPU or as live views."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """What modules of the first participant keep besides tensors (`ExtraState`), for a version."""
        return {}

    def history(self) -> Any:
        """The stream's recent outcomes, which predicting new rows needs; None where it needs none."""
        return None

    def close(self) -> None:
        """Give everything back. May be called twice."""

    def state_path(self, participant: str, version: int) -> Path:
        """Where a participant keeps its state for a version."""
        return state_folder(self.directory, participant, version)


def engine_named(name: str) -> type[Engine]:
    """The engine of that name: an installed one, or "module:Class".

    >>> engine_named("local").__name__
    'LocalEngine'
    """
    if entry := ENGINES.plugins().get(name):
        _check_ours(entry)
    engine: type[Engine] = ENGINES.find(name, "--on")
    return engine


ENGINES: Catalogue[type[Engine]] = Catalogue("an engine", {}, "incr.engines", broken=EngineError)
"""What `--on` can name. Ours are entry points too, since the core knows neither Ray nor Flower."""

OURS = Path(__file__).resolve().parents[1]
"""The core's package; those of our engines lie beside it."""


def _check_ours(entry: EntryPoint) -> None:
    """JobError where somebody else's module has the name of our engine's package, and is found in its place."""
    package = entry.module.partition(".")[0]
    ours = OURS.with_name(package)
    found = file_of(package)
    if ours.is_dir() and (found is None or found.resolve() != ours):
        whose = "a folder without __init__.py" if found is None else str(found)
        raise JobError(
            f"--on {entry.name}: expected our package {package} ({ours}), got {whose}, which Python finds first; "
            "rename that, run from another folder (`python -m` and scripts look in theirs first), or uninstall it"
        )
