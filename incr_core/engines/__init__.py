"""Where learners live and how updates travel: the protocol of an engine, and the engine of one process."""

from __future__ import annotations

from incr_core.engines._base import Engine, LocalEngine, Round, engine_named, merge_shared, total_measured

__all__ = ["Engine", "LocalEngine", "Round", "engine_named", "merge_shared", "total_measured"]
