"""Names of the records of messages and of their entries, for server and clients."""

from __future__ import annotations

__all__ = ["ALONE", "ANCHOR", "CHAMPION", "CLIENT", "CLIENTS", "ORDER", "ROWS", "SHARED", "WORK"]

ANCHOR, CHAMPION, SHARED, ROWS = "anchor", "champion", "shared", "rows"
CLIENTS, ORDER, WORK = "clients", "order", "work"
"""Records of a message and of an answer.

A message has the weights to start from, the champion's, the merged strategy state, the rows to review, the clients of a
block, and the order. An answer has the record of its cost.
"""

ALONE = "alone"
"""Key of an answer's cost with the reason why clients were learned one by one instead of as one batch."""

CLIENT = "client"
"""Key of a node's configuration that names its owner's file."""
