"""The Flower ServerApp: the loop, with its engine on the grid that Flower lends.

flwr run . --run-config "job='/data/flights/job.toml' out='/data/runs/flights'"
"""

from __future__ import annotations

from federated._apps import make_server_app

__all__ = ["app"]

app = make_server_app()
