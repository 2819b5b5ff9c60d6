"""Rows from the network to files: Arrow Flight and Redis Streams, acknowledged when durable.

`incr ingest` writes Arrow files that never change into a folder; `incr run --follow` learns them as it learns any
folder, so every guarantee of a stream of files holds.
"""

from __future__ import annotations

from incr_core.ingest._client import IngestWriter
from incr_core.ingest._flight import FlightIngest
from incr_core.ingest._group_commit import GroupCommit
from incr_core.ingest._landing import LandingTable
from incr_core.ingest._options import Ingest
from incr_core.ingest._room import Room

__all__ = ["FlightIngest", "GroupCommit", "Ingest", "IngestWriter", "LandingTable", "Room"]
