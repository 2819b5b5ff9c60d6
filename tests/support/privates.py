"""The one file for each library that uses what the library keeps to itself."""

from __future__ import annotations

__all__ = ["PRIVATES"]

PRIVATES = {
    "flwr": "federated/_flower_privates.py",
    "ray": "cluster/_ray_privates.py",
    "river": "incr_core/drift/_river.py",
    "torch": "incr_core/numerics/_torch_privates.py",
}
"""Library -> file. Each checks at import, or at first use, that the names are there, and says with which version it was
tested."""
