"""Model versions in MLflow: a version of the run as a Python function, without pickle."""

from __future__ import annotations

import platform
import tempfile
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from incr_core.trackers._base import Commit, TrackedRun
from incr_core.trackers._mlflow_names import model_name

__all__ = ["MLflowModels"]

LOADER = "incr_core.runs.pyfunc"
"""The module that loads a model. Registered models name it, so it must keep its name."""

VERSION, ID, SHA256, CHAMPION = "incr.version", "incr.id", "incr.model_sha256", "champion"
"""Tags of a model version, and the alias of the one that is served."""


class MLflowModels:
    """The versions of a run in MLflow's model registry.

    A version is a folder of the MLflow run's artifacts: `MLmodel`, `requirements.txt`, and in `data` a run directory
    with this version alone, in safetensors and JSON. `mlflow.pyfunc.load_model("models:/NAME@champion")` loads it where
    `incr` is installed.

    Args:
        client: The client of MLflow.
        run: The run that is followed.
        info: The entry of its run in MLflow.
    """

    def __init__(self, client: Any, run: TrackedRun, info: Any) -> None:
        self._client, self._run = client, run
        self._mlflow_run, self._artifacts = info.run_id, info.artifact_uri
        self._name = model_name(run.name)

    def register(self, commit: Commit) -> None:
        """Register a version, unless it is registered, has lost its weights, or leaves some of them with clients."""
        if "personal" in commit.manifest or self._registered(commit.version) is not None:
            return
        path = f"models/{commit.version}"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if not self._run.copy_version(commit.version, folder / "data"):
                return
            self._write_description(folder, path)
            self._client.log_artifacts(self._mlflow_run, str(folder), path)
        if not self._client.search_registered_models(f"name = '{self._name}'", max_results=1):
            self._client.create_registered_model(self._name)
        self._client.create_model_version(
            self._name,
            f"{self._artifacts}/{path}",
            self._mlflow_run,
            tags={
                VERSION: str(commit.version),
                ID: self._run.id,
                SHA256: commit.manifest["model_sha256"],
            },
            await_creation_for=0,  # a server of MLflow has it at once
        )

    def serve(self, version: int) -> None:
        """Give the alias `champion` to a version; take it away if the version is not registered."""
        registered = self._registered(version)
        if registered is not None:
            self._client.set_registered_model_alias(self._name, CHAMPION, registered)
        elif self._client.search_registered_models(f"name = '{self._name}'", max_results=1):
            self._client.delete_registered_model_alias(self._name, CHAMPION)

    def _registered(self, version: int) -> str | None:
        """The number that a version of this run has in the model registry; None if it is not registered."""
        conditions = [f"name = '{self._name}'", f"tags.`{VERSION}` = '{version}'", f"tags.`{ID}` = '{self._run.id}'"]
        found = self._client.search_model_versions(" and ".join(conditions), max_results=1)
        return str(found[0].version) if found else None

    def _write_description(self, folder: Path, path: str) -> None:
        from mlflow.models import Model

        requirements = [f"{package}=={installed(package).partition('+')[0]}" for package in ("incr", "torch")]
        (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
        described = Model(artifact_path=path, run_id=self._mlflow_run)
        described.add_flavor(
            "python_function", loader_module=LOADER, data="data", python_version=platform.python_version()
        )
        described.save(str(folder / "MLmodel"))
