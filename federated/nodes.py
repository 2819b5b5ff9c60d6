"""The nodes of the clients: found by their partition numbers, and asked all at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated.client_app import ANCHOR, ORDER, SHARED, WORK, app
from federated.clients import Client
from federated.failures import REMEDY, raise_failures
from federated.grid import RayGrid, spread
from federated.records import pack, payload
from federated.simulation import FlowerSimulation
from incr_core.errors import EngineError, IncrError, WorkerLost
from incr_core.job import FederatedSection
from incr_core.update import Weights

__all__ = ["Nodes"]

PATIENCE = 180.0
"""Seconds to wait for the nodes of all clients to appear, and for them to answer first: on a busy machine, a worker
takes a minute to import what it needs."""


class Nodes:
    """The nodes of a Flower grid on which a job's clients are.

    wanted: what the job says of them. grid: where they are; None starts one as the job says.
    bytes: of the tensors sent and received. seconds: for each question, that the busiest process worked. Both add up.
    """

    def __init__(self, wanted: FederatedSection, grid: Grid | None = None) -> None:
        self._wanted = wanted
        self._grid = grid
        self._lent = grid is not None
        self._simulation: FlowerSimulation | None = None
        self._clients: list[Client] = []
        self._nodes: list[int] = []
        self.bytes, self.seconds = 0, 0.0

    def reach(self, clients: Sequence[Client]) -> None:
        """Find the node of every client: client i is at the one with partition number i.

        Raises WorkerLost where a client has none.
        """
        self._clients = list(clients)
        if self._grid is None:
            self._grid = self._started()
        self._nodes = self._found(self._grid)

    @property
    def clients_stay(self) -> bool:
        """Whether a client always meets the same process."""
        return isinstance(self._grid, RayGrid)

    def _started(self) -> Grid:
        wanted = self._wanted
        workers = min(wanted.workers, len(self._clients))
        if wanted.backend == "grid":
            return RayGrid(app, spread([client.rows for client in self._clients], workers))
        self._simulation = FlowerSimulation(app, len(self._clients), workers)
        return self._simulation.grid

    def _found(self, grid: Grid) -> list[int]:
        """The node of each client, by the partition number that the node was given."""
        deadline = time.monotonic() + PATIENCE
        # Flower's grids say who is there only when asked, and nodes come one by one.
        with _failures_of(grid, "finding the clients"):
            while len(found := sorted(grid.get_node_ids())) < len(self._clients) and time.monotonic() < deadline:
                time.sleep(0.05)
            sent = [Message(RecordDict(), node, "query.hello") for node in found]
            replies = list(grid.send_and_receive(sent, timeout=PATIENCE))
        by_partition: dict[int, int] = {}
        for reply in replies:
            if reply.has_content():
                index = int(str(reply.content.config_records[ORDER]["partition-id"]))
                by_partition[index] = reply.metadata.src_node_id
        missing = [client.name for client in self._clients if client.index not in by_partition]
        if missing:
            raise WorkerLost(
                f"client {', '.join(missing[:5])}: no node has answered for it within {PATIENCE:.0f} s; {len(found)} "
                f"nodes are there for {len(self._clients)} clients; node i needs partition-id=i and a free worker"
            )
        return [by_partition[client.index] for client in self._clients]

    def ask(
        self,
        action: str,
        clients: Sequence[int],
        order: Mapping[str, Any] | None = None,
        *,
        orders: Sequence[Mapping[str, Any]] | None = None,
        records: Sequence[Mapping[str, ArrayRecord]] | None = None,
        anchor: Weights | None = None,
        shared: Mapping[str, Tensor] | None = None,
    ) -> list[RecordDict]:
        """Send a message to each of these clients and return their answers in the same order.

        Law 8 is kept here: whoever answers first, sums run in the order of `clients`.
        """
        assert self._grid is not None, "reach the clients before asking them"
        common = {ANCHOR: pack(anchor)} if anchor is not None else {}
        if shared:
            common[SHARED] = pack(shared)
        every = ConfigRecord(dict(order or {}))
        contents = [
            RecordDict(
                {
                    **common,
                    **({} if records is None else records[place]),
                    ORDER: every if orders is None else ConfigRecord(dict(orders[place])),
                }
            )
            for place in range(len(clients))
        ]
        nodes = [self._nodes[client] for client in clients]
        # A list: Flower's grid over HTTP goes through the messages twice.
        sent = [Message(content, node, action) for content, node in zip(contents, nodes, strict=True)]
        with _failures_of(self._grid, f"asking clients to {action.partition('.')[2]}"):
            replies = {reply.metadata.src_node_id: reply for reply in self._grid.send_and_receive(sent)}
        answers = [replies.get(node) for node in nodes]
        raise_failures([self._clients[client].name for client in clients], answers)
        found = [answer.content for answer in answers if answer is not None]
        self.bytes += sum(map(payload, contents)) + sum(map(payload, found))
        self.seconds += _busiest(found)
        return found

    def close(self) -> None:
        """Stop the simulated clients; nodes of a grid that was lent stay. May be called twice."""
        if self._simulation is not None:
            self._simulation.close()
        elif isinstance(self._grid, RayGrid) and not self._lent:
            self._grid.close()
        self._simulation = self._grid = None


@contextmanager
def _failures_of(grid: Grid, doing: str) -> Iterator[None]:
    """EngineError for whatever a grid raises: they go over HTTP, gRPC or Ray, each with errors of its own."""
    try:
        yield
    except IncrError:
        raise
    except Exception as error:
        raise EngineError(
            f"federated: expected {type(grid).__name__} to carry messages, got {type(error).__name__}: {error} while "
            f"{doing}; {REMEDY}"
        ) from error


def _busiest(answers: Sequence[RecordDict]) -> float:
    """Seconds that the process which worked longest has worked."""
    worked: dict[int, float] = {}
    for answer in answers:
        work = answer.config_records[WORK]
        process = int(str(work["process"]))
        worked[process] = worked.get(process, 0.0) + float(str(work["seconds"]))
    return max(worked.values(), default=0.0)
