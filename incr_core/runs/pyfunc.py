"""Models in MLflow's model registry: the loader of MLflow's flavour `python_function`.

A model that `track.mlflow` has registered names this module. `mlflow.pyfunc.load_model` imports it.
"""

from __future__ import annotations

from typing import Any

from incr_core.runs._version import Version

__all__ = ["Model"]


class Model:
    """A version of a run as a Python function of MLflow.

    Args:
        path: A run directory.

    Attributes:
        version: The version.
    """

    def __init__(self, path: str) -> None:
        self.version = Version.load(path)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return the predictions for rows, as the columns of `Version.predict` without `row`.

        Args:
            model_input: A data frame of pandas, or a dictionary of columns.
            params: Not used.

        Returns:
            A data frame with the index of the input, if that is a data frame.
        """
        found = self.version.predict(model_input).drop_columns(["row"]).to_pandas()
        return found.set_index(model_input.index) if hasattr(model_input, "columns") else found


def _load_pyfunc(path: str) -> Model:
    """Load a model; MLflow calls it with the folder `data` of the model."""
    return Model(path)
