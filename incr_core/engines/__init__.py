"""Engines: the protocol, and the engine of a single process. An engine hosts participants and transfers updates."""

from __future__ import annotations

from incr_core._util import waiting
from incr_core.engines._at_owner import AtOwner
from incr_core.engines._base import Engine
from incr_core.engines._commit import Commit, Saving
from incr_core.engines._local import LocalEngine
from incr_core.engines._named import ENGINES, at_owner, engine_named
from incr_core.engines._tuner import Outcome, Report, Trial, Tuner

__all__ = [
    "ENGINES",
    "AtOwner",
    "Commit",
    "Engine",
    "LocalEngine",
    "Outcome",
    "Report",
    "Saving",
    "Trial",
    "Tuner",
    "at_owner",
    "engine_named",
    "waiting",
]
