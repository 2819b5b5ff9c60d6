"""MLflow: a run with parameters and metrics, and a model version for each champion."""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any

from incr_core.trackers._base import Commit, TrackedRun, Tracker
from incr_core.trackers._mlflow_models import MLflowModels
from incr_core.trackers._mlflow_names import key_of

__all__ = ["MLflow"]

ID, VERSION, CHAMPION, DIRECTORY = "incr.id", "incr.version", "incr.champion", "incr.directory"
"""Tags of a run in MLflow. The first identifies it; the second is the last version that it has completely."""

METRICS, PARAMETERS = 1000, 100
"""Entries that MLflow accepts in one request."""

LONGEST = 6000
"""Characters of a parameter's value that MLflow accepts."""

TIMEOUT = 5.0
"""Seconds within which a server has to respond at all. MLflow itself repeats a request for minutes."""

PRIVATE = ("alerts", "track", "objects")
"""Sections of a job that are not sent: addresses of webhooks are secrets, and the others say nothing about the model.
"""


class MLflow(Tracker):
    """A run in MLflow: the settings of the job as parameters, the metrics of each increment, and model versions.

    The experiment has the name of the job, the run that of the run directory. A resumed run continues its run in
    MLflow, which it finds by the tag `incr.id`. Every published champion is registered as a version of the model with
    the job's name (`MLflowModels`). Baselines have runs but no models.

    Each increment is in MLflow once. The tag `incr.version` is set when a version is complete. After a kill before
    that, the version is sent again with the same time, step and value, which a database of MLflow stores once.

    Args:
        run: The run to follow.
        uri: The tracking URI.

    Raises:
        ConnectionError: The server does not respond.
    """

    def __init__(self, run: TrackedRun, uri: str) -> None:
        super().__init__(run)
        self._uri = uri
        require_response(uri)
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        found = self._found_or_begun()
        self._id, self._tags = found.info.run_id, found.data.tags
        self._log_parameters(found.data.params)
        can_register = not run.baseline and not run.job.objects
        self._models = MLflowModels(self._client, run, found.info) if can_register else None

    def position(self) -> int:
        """Return the last version that MLflow has completely."""
        return int(self._tags.get(VERSION, 0))

    def follow(self, commit: Commit) -> None:
        """Send the metrics of the increments, and register the version if it is the champion."""
        require_response(self._uri)
        for part in _parts(list(self._metrics(commit)), METRICS):
            self._client.log_batch(self._id, metrics=part)
        if self._models is not None and commit.champion == commit.version:
            self._models.register(commit)
        self._client.set_tag(self._id, VERSION, str(commit.version))

    def serve(self, version: int) -> None:
        """Note the champion in the run, and set the alias `champion` of the model."""
        require_response(self._uri)
        self._client.set_tag(self._id, CHAMPION, str(version))
        if self._models is not None:
            self._models.serve(version)

    def close(self, finished: bool | None) -> None:
        """End the run in MLflow: FINISHED, or KILLED if the run was stopped before the end of its stream."""
        if finished is None:
            return
        require_response(self._uri)
        with redirect_stdout(sys.stderr):  # MLflow prints an address, where `incr run --json` prints its answer
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _found_or_begun(self) -> Any:
        run, client = self.run, self._client
        experiment = client.get_experiment_by_name(run.name)
        number = client.create_experiment(run.name) if experiment is None else experiment.experiment_id
        found = client.search_runs([number], f"tags.`{ID}` = '{run.id}'", max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0]
        name = run.path.parent.parent.name + f"/{run.baseline}" if run.baseline else run.path.name
        return client.create_run(number, tags={ID: run.id, DIRECTORY: run.place}, run_name=name)

    def _log_parameters(self, known: Mapping[str, str]) -> None:
        """Send the settings that MLflow does not have: it refuses another value of the same parameter."""
        from mlflow.entities import Param

        document = {key: value for key, value in self.run.job.document().items() if key not in PRIVATE}
        new = [Param(key, value[:LONGEST]) for key, value in _flat(document) if key not in known]
        for part in _parts(new, PARAMETERS):
            self._client.log_batch(self._id, params=part)

    def _metrics(self, commit: Commit) -> Iterator[Any]:
        from mlflow.entities import Metric

        at = int(commit.created.timestamp() * 1000)
        for step, numbers in commit.scalars():
            for name, value in numbers.items():
                yield Metric(key_of(name), value, at, step)


def require_response(uri: str) -> None:
    """Raise ConnectionError if a server does not respond; any response counts, also a refusal.

    Example:
        >>> require_response("sqlite:///mlflow.db")
        >>> require_response("http://127.0.0.1:9")
        Traceback (most recent call last):
        ...
        ConnectionError: http://127.0.0.1:9 does not respond: [Errno 111] Connection refused
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TIMEOUT):
            pass
    except urllib.error.HTTPError as refusal:
        refusal.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # a server that requires the certificates of MLflow's settings
            raise ConnectionError(f"{uri} does not respond: {reason}") from None


def _flat(document: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Return the settings of a job by their full keys, as text.

    Example:
        >>> list(_flat({"learner": {"seed": 0}, "strategy": [{"name": "ewc"}, {"name": "replay"}], "drift": []}))
        [('learner.seed', '0'), ('strategy.0.name', 'ewc'), ('strategy.1.name', 'replay'), ('drift', '[]')]
    """
    if isinstance(document, Mapping) and document:
        for key, value in document.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(document, list) and any(isinstance(value, Mapping) for value in document):
        for number, value in enumerate(document):
            yield from _flat(value, f"{prefix}.{number}")
    else:
        yield key_of(prefix), str(document)


def _parts(entries: list[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(entries), most):
        yield entries[start : start + most]
