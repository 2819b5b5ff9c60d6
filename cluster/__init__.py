"""Engine of a Ray cluster: replicas, made of shards, that average their weights. The only package that imports ray."""

from __future__ import annotations

from cluster._settings import Cluster

__all__ = ["Cluster"]
