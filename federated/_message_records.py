"""Names of the records of messages and of their entries, for server and clients."""

from __future__ import annotations

__all__ = ["ALONE", "ANCHOR", "CHAMPION", "CLIENT", "CLIENTS", "ORDER", "ROWS", "SHARED", "WORK"]

ANCHOR, CHAMPION, SHARED, ROWS = "anchor", "champion", "shared", "rows"
CLIENTS, ORDER, WORK = "clients", "order", "work"
"""Records of a message: weights to start from, the champion's, merged strategy state, rows to review, which clients of
a block, what to do; and of an answer: what it took."""

ALONE = "alone"
"""The key of what an answer took that says why clients who were to be learned as one batch were not."""

CLIENT = "client"
"""The key of a node's configuration that names its owner's file."""
