"""The apps of `incr` for other Flower projects: with arguments, and behind mods of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from federated._batched_app import Answers, BatchedApp
from federated._message_records import CLIENT
from federated.client_app import app as client_app
from federated.engine import FederatedEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.numerics import settle_arithmetic
from incr_core.registry import RunDirectory
from incr_core.storage import located
from incr_core.trackers import Trackers

__all__ = ["make_client_app", "make_server_app"]

Answer = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Answer], Message]


def make_client_app(file: str | Path | None = None, *, mods: Sequence[Mod] = ()) -> ClientApp:
    """Make a Flower ClientApp that learns jobs of `incr`.

    Flower runs it wherever it runs a ClientApp: on a SuperNode, in its simulation, on `RayGrid`. A simulated client
    learns the part of the job's table that its partition number names.

    Args:
        file: The file of the owner whose rows the app learns (docs/federated.md, "At each owner"). None takes the path
            from the node's configuration, key `client`. A node without one is a simulated client. It is read with the
            first message: a server that imports the same module does not have it. If it cannot be read, the node
            prints the reason, and the run on the server ends with an error that says so.
        mods: Flower mods, such as `flwr.clientapp.mod.message_size_mod`. The first is the outermost. With mods,
            `federated.batch_clients` has no effect: a mod looks at one message.

    Returns:
        The app, for `[tool.flwr.app.components] clientapp = "module:name"`.

    Example:
        >>> from flwr.clientapp.mod import message_size_mod
        >>> app = make_client_app("north.toml", mods=[message_size_mod])
    """
    answer: Answer = client_app
    for mod in reversed(mods):
        answer = partial(_through, mod, answer)
    return _ArgumentsApp(answer, None if file is None else str(Path(file).absolute()), batches=not mods)


def make_server_app(
    job: Job | str | Path | None = None, out: str | Path | None = None, *, settings: Sequence[str] = ()
) -> ServerApp:
    """Make a Flower ServerApp that runs a job of `incr` on the clients that Flower finds.

    The run directory is that of `incr run --on federated`, except for the report, which `incr report` writes. If it
    exists, the run resumes from its last commit.

    Args:
        job: The job, or the path of its file. None takes the path from the run config, key `job`.
        out: The run directory. None takes it from the run config, key `out`; the default is `runs/NAME-federated`.
        settings: Changes to the job, each as `"section.key=value"`.

    Returns:
        The app, for `[tool.flwr.app.components] serverapp = "module:name"`.

    Raises:
        JobError: When the app runs: neither `job` nor the run config names a job, or the job is invalid.

    Example:
        >>> app = make_server_app("job.toml", "runs/visits", settings=["federated.rounds=2"])
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        found = _job_of(job, context, settings)
        place = out or str(context.run_config.get("out", "")) or f"runs/{found.name}-federated"
        directory = located(str(place)).absolute()
        found = found.resolved(directory)
        settle_arithmetic(found.learner.threads, found.learner.device)
        with (
            RunDirectory.create(
                directory, found.toml(), f"federated:{found.fingerprint()}", keep=found.publish.keep, as_now=Job.as_now
            ) as run,
            Trackers(found, run) as trackers,
        ):
            trackers.finished = Loop(found, FederatedEngine(found, directory, grid), run).run_to_summary()["finished"]

    return app


class _ArgumentsApp(BatchedApp):
    """The ClientApp of `incr` for one owner's file, behind mods."""

    def __init__(self, answer: Answer, file: str | None, *, batches: bool) -> None:
        super().__init__()
        self._answer, self._file, self._batches = answer, file, batches

    def __call__(self, message: Message, context: Context) -> Message:
        if self._file is not None:
            context.node_config[CLIENT] = self._file
        return self._answer(message, context)

    def batches(self, messages: Sequence[Message]) -> list[tuple[Answers | None, list[Message]]]:
        """Batches of messages as the wrapped app makes them; single messages behind mods."""
        if self._batches and self._file is None:
            return client_app.batches(messages)
        return [(None, [message]) for message in messages]


def _through(mod: Mod, answer: Answer, message: Message, context: Context) -> Message:
    return mod(message, context, answer)


def _job_of(job: Job | str | Path | None, context: Context, settings: Sequence[str]) -> Job:
    if isinstance(job, Job):
        return job.with_settings(settings) if settings else job
    if path := str(job or context.run_config.get("job", "")):
        return Job.written(path, settings)
    raise JobError("run config: expected the path of a job, got none; pass --run-config \"job='/path/to/job.toml'\"")
