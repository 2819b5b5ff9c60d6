"""Learn inside Flower clients: the same update rule, with rows that never leave their owner.

The only place that imports Flower, and Ray only where clients are simulated on this machine.
"""

import os
import warnings

# Flower reads these when it is first imported: no telemetry, no look for updates, no installing at run time.
for _setting, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}.items():
    os.environ.setdefault(_setting, _value)

with warnings.catch_warnings():
    # Flower 1.41 pins a typer that imports names which click 8 has deprecated; nothing of ours can change that.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import flwr.app  # noqa: F401

from federated._settings import Federated  # noqa: E402

__all__ = ["Federated"]
