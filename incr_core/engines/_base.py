"""The protocol of an engine: where learners live and how updates travel.

The loop drives every engine the same way for each increment:

    arrivals = engine.receive()        every participant predicts what arrives and reports what it has to learn
    round = engine.learn(arrivals)     rounds of: adopt, learn, exchange, outer step
    engine.order(orders)               before or after: what else participants are to do; usually nothing
    engine.judge()                     before a commit, where the job has a gate
    engine.save(version)               at a commit, participants save their state under that version

Engines are found by name, most among the entry points of the group `incr.engines` (`engine_named`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from incr_core._util import Catalogue, file_of
from incr_core.data.timeline import Standing
from incr_core.errors import ArgumentError, EngineError, JobError
from incr_core.numerics import all_finite, settle_arithmetic
from incr_core.registry import RowStates, state_folder
from incr_core.rounds import Arrival, Orders, Round
from incr_core.update import Weights

if TYPE_CHECKING:
    from incr_core.job import Job

__all__ = ["ENGINES", "Commit", "Engine", "engine_named"]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a run goes on from: a version, its weights, and the state that the engine itself saved with it."""

    version: int
    weights: Weights
    engine: Mapping[str, Any]


class Engine:
    """Drive participants through increments. Subclasses say where participants live.

    job: what to run; directory: the run directory, under whose `state/` participants save theirs.
    """

    name = "engine"

    max_failures = 0
    """How many times in a row, without a commit between, `start` may be called again after WorkerLost."""

    interruptible = False
    """Whether `start` may be called after `receive` was given up while it waited."""

    saves_meanwhile = False
    """Whether participants go on while the state that `save` has begun to keep is written: then `written` waits for it,
    in another thread."""

    def __init__(self, job: Job, directory: Path) -> None:
        # Merging updates must round exactly as making them does.
        settle_arithmetic(job.learner.threads, job.learner.device)
        self.job = job
        self.directory = directory

    @classmethod
    def detach(cls, job: Job, directory: Path, token: str) -> None:
        """Call `runs.go_on` in a process that outlives this one, and in another whenever it is lost; returns at once.

        token: what the process is known by in the run directory (`registry.Detached`), which is written before.
        """
        raise JobError(
            f"--detach: expected --on cluster, whose Ray can keep the run, got --on {cls.name}, which runs in the "
            "process of the command; leave --detach out"
        )

    @classmethod
    def client(cls, file: str, superlink: str | None, certificates: str | None, key: str | None) -> str:
        """Serve the owner that a client's file tells of, on a SuperLink, until asked to stop; returns what to print.

        superlink: its address; None: only tell which runs the owner has taken part in.
        """
        raise JobError(f"client: expected --on federated, whose participants are clients, got --on {cls.name}")

    @classmethod
    def erase_at_owner(cls, file: str, where: str | None, rows: str | None) -> dict[str, dict[str, Any]]:
        """Delete rows from what an owner's client keeps of them; returns counts, by the runs that it has taken part in.

        where: COLUMN=VALUE, of the owner's files. rows: a file of addresses.
        """
        raise JobError(f"{file}: expected --on federated, whose participants are clients, got --on {cls.name}")

    @classmethod
    def rows_at_owner(cls, file: str) -> dict[str, tuple[Standing, RowStates, list[str]]]:
        """In which state the rows of an owner are, and what is not proven of that, by the runs it has taken part in."""
        raise JobError(f"{file}: expected --on federated, whose participants are clients, got --on {cls.name}")

    @classmethod
    def weights_at_owner(cls, file: str, run: str | None) -> dict[str, Tensor]:
        """Weights of an owner's own, to predict its rows with, in a run by the name that owners know it by.

        run: None: the only one that it has taken part in.
        """
        raise JobError(f"{file}: expected --on federated, whose participants are clients, got --on {cls.name}")

    @property
    def participants(self) -> list[str]:
        """Names of the participants, in the order of their shares in every sum."""
        raise NotImplementedError

    @property
    def swept(self) -> list[str]:
        """Those participants whose old states a commit removes; the others remove their own."""
        return self.participants

    @property
    def origins(self) -> Sequence[str]:
        """What rows are from, by the number that their ids bear: names of the fragments known of the stream."""
        raise NotImplementedError

    def start(self, commit: Commit | None) -> None:
        """Begin anew, or go on from a commit; whatever was learned since is dropped.

        After WorkerLost too, where `max_failures` allows: lost workers are then replaced.
        """
        raise NotImplementedError

    def receive(self) -> list[Arrival]:
        """Let every participant take its next increment; empty when the stream has ended."""
        raise NotImplementedError

    def learn(self, arrivals: Sequence[Arrival], rows: Mapping[str, Tensor] | None = None) -> Round:
        """Learn the increment at hand, or instead `rows` of the history, once more and in one round.

        rows: row ids (n,) by participant. If there are none, the increment is skipped: the rows in `arrivals` are
        dropped, and an engine that has rows wait takes those out of `arrivals`.
        """
        raise NotImplementedError

    def regroups(self) -> bool:
        """Asked after a commit: whether there are to be other participants from now on. Then `start` is called."""
        return False

    @property
    def news(self) -> Sequence[tuple[str, str, str]]:
        """What befell the participants since the last commit, for its events: kind, what, and what was done."""
        return ()

    @property
    def retired(self) -> Sequence[str]:
        """Names of those who took part, and will not again: a commit removes what they had saved."""
        return ()

    @property
    def personal(self) -> Sequence[str]:
        """Weights that participants do not have in common, so that a version cannot have them."""
        return ()

    def told(self) -> dict[str, Any]:
        """More to tell in the summary of a run."""
        return {}

    def order(self, orders: Orders, weights: Weights | None = None) -> None:
        """Let all participants follow orders, then adopt these weights, before an increment is learned or after."""
        raise NotImplementedError

    def judge(self) -> list[Tensor]:
        """Let participants compare the weights with the champion on rows of the past: sums of each (`Reference.judge`).

        Asked before a commit, where the job has a gate; the verdict comes with the next orders.
        """
        raise JobError(f"publish.gate: expected an engine that judges versions, got {self.name}; leave it out")

    def save(self, version: int) -> dict[str, Any]:
        """Let participants save their state for this version; returns the state of the engine itself."""
        raise NotImplementedError

    def written(self, version: int, given_up: Callable[[], bool]) -> Weights:
        """Wait until all that `save` keeps of a version is on the disk; returns the whole weights, as they were then.

        given_up: whether nobody wants it any more, since somebody was lost; EngineError then.
        """
        return self.weights()

    def settle(self) -> None:
        """Wait until nothing is being written any more. Raises what went wrong with it, WorkerLost too."""

    def committed(self, version: int) -> None:
        """A version is committed."""

    def not_finite(self) -> str | None:
        """The name of a weight with values that are not finite; None where there is none."""
        return next((name for name, value in self.weights().items() if not all_finite(value)), None)

    def leaving(self) -> str:
        """Who is about to leave, and takes with it what is not committed, in words; told once, and otherwise empty."""
        return ""

    def weights(self) -> Weights:
        """The common weights of all participants, whole, on the CPU or as live views."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """State other than tensors of the first participant's modules (`ExtraState`), for a version."""
        return {}

    def history(self) -> Any:
        """The stream's recent outcomes, if predicting new rows needs them; else None."""
        return None

    def close(self) -> None:
        """Release all resources. May be called twice."""

    def state_path(self, participant: str, version: int) -> Path:
        """Where a participant saves its state for a version."""
        return state_folder(self.directory, participant, version)


def engine_named(name: str) -> type[Engine]:
    """The engine of that name: an installed one, or "module:Class".

    >>> engine_named("local").__name__
    'LocalEngine'
    """
    if entry := ENGINES.plugins().get(name):
        _check_ours(entry)
    engine: type[Engine] = ENGINES.find(name, "on")
    return engine


ENGINES: Catalogue[type[Engine]] = Catalogue("an engine", {}, "incr.engines", error=ArgumentError, broken=EngineError)
"""What `--on` can name. Ours are entry points too, since the core knows neither Ray nor Flower."""

OURS = Path(__file__).resolve().parents[1]
"""The core's package; our other engines are packages beside it."""


def _check_ours(entry: EntryPoint) -> None:
    """ArgumentError where another module with the name of our engine's package shadows it."""
    package = entry.module.partition(".")[0]
    ours = OURS.with_name(package)
    found = file_of(package)
    if ours.is_dir() and (found is None or found.resolve() != ours):
        whose = "a folder without __init__.py" if found is None else str(found)
        raise ArgumentError(
            f"on {entry.name}: expected our package {package} ({ours}), got {whose}, which Python finds first; "
            "rename that, run from another folder (`python -m` and scripts look in theirs first), or uninstall it"
        )
