"""The Flower ServerApp: the loop, with its engine on the grid that Flower lends.

    flwr run . --run-config "job='/data/flights/job.toml' out='/data/runs/flights'"

The run directory is the same as that of `incr run --on federated`, but for the report, which `incr report` writes; it
goes on from its last commit likewise.
"""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federated.engine import FederatedEngine
from incr_core.errors import JobError
from incr_core.job import Job
from incr_core.loop import Loop
from incr_core.numerics import settle_arithmetic
from incr_core.registry import RunDirectory
from incr_core.storage import located

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that the run config names, on the clients of `grid`."""
    path = str(context.run_config.get("job", ""))
    if not path:
        raise JobError("run config: no job is named; pass --run-config \"job='/path/to/job.toml'\"")
    job = Job.written(path)
    out = located(str(context.run_config.get("out", "")) or f"runs/{job.name}-federated").absolute()
    job = job.resolved(out)
    settle_arithmetic(job.learner.threads, job.learner.device)
    with RunDirectory.create(
        out, job.toml(), f"federated:{job.fingerprint()}", keep=job.publish.keep, as_now=Job.as_now
    ) as directory:
        Loop(job, FederatedEngine(job, out, grid), directory).run_to_summary()
