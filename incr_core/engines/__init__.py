"""Engines, where participants live and how updates travel: their protocol, and the engine of one process."""

from __future__ import annotations

from incr_core._util import waiting
from incr_core.engines._base import ENGINES, Commit, Engine, engine_named
from incr_core.engines._local import LocalEngine

__all__ = ["ENGINES", "Commit", "Engine", "LocalEngine", "engine_named", "waiting"]
