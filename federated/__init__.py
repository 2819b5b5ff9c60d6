"""Federated learning in Flower clients: the same update rule, with rows that never leave their owner.

`Federated` names the engine and its settings. `RayGrid` runs any Flower app. `make_client_app` and `make_server_app`
are the apps of `incr` for other Flower projects. `deal` takes the partitioners of `flwr-datasets`. This package is the
only one that imports Flower. It imports Ray only where clients are simulated.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

# Flower reads these at its first import: no telemetry, no check for updates, no installation at run time.
for _setting, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}.items():
    os.environ.setdefault(_setting, _value)

with warnings.catch_warnings():
    # Flower 1.41 pins a typer that imports names which click 8 has deprecated. Code outside Flower cannot change that.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import flwr.app  # noqa: F401

from federated._settings import Federated  # noqa: E402

if TYPE_CHECKING:
    from federated._apps import make_client_app, make_server_app
    from federated._dealing import deal
    from federated._grid import RayGrid

__all__ = ["Federated", "RayGrid", "deal", "make_client_app", "make_server_app"]

_HOMES = {"RayGrid": "_grid", "deal": "_dealing", "make_client_app": "_apps", "make_server_app": "_apps"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: an owner's client needs no Ray."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"federated.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'federated' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, which are imported on first use."""
    return __all__
