"""The clients of a run as the server reaches them: all are asked at once, and their answers have a fixed order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from federated._client_failures import REMEDY
from federated._holdings import Holdings, Sending
from federated._known_tensors import LACKS
from federated._message_records import ANCHOR, ORDER, SHARED, WORK
from federated._records import payload
from federated._wire import Wire
from incr_core.engines import Commit
from incr_core.errors import EngineError, IncrError
from incr_core.rounds import Arrival
from incr_core.update import Weights

__all__ = ["LEARNS", "Roster", "budget_spent", "failures_of"]

LEARNS = ("train.learn", "train.review")
"""Questions whose answer is an update."""

JUDGES = ("evaluate.judge", "evaluate.compare")
"""Questions about a version, after an increment. Their anchor is counted with the next increment, which needs it too.
"""


class Roster(ABC):
    """The clients, in the order of their shares in every sum, and the communication with each.

    Attributes:
        names: Names of the clients.
        origins: Origins of rows by the numbers in their ids, as far as they are known.
        alike: Whether an order for all clients is the same for each.
        failed: Clients without a valid answer, with reasons, since the last increment.
        held_out: Clients that never learn, and on whose rows the model is evaluated.
        down, up: Bytes of the tensors sent to, and received from, each client.
        seconds: Working time of the busiest process, summed over questions.
        cpu_seconds: CPU time of all processes, since the last increment.
        memory: Memory of the process that used most (`Usage.spent`), since the last increment.
        wire: Coding of clients' updates; None: weights travel unchanged.
        rules: Merge rules of the weights.
        holdings: Versions of the anchor and of the merged strategy state that clients hold, by the record's name.
    """

    alike = True

    def __init__(self) -> None:
        self.down, self.up, self.seconds = Counter[int](), Counter[int](), 0.0
        self.cpu_seconds = self.memory = 0.0
        self.wire: Wire | None = None
        self.rules: Mapping[str, str] = {}
        self.origins: list[str] = []
        self.news: list[tuple[str, str, str]] = []
        self.failed: list[tuple[int, str]] = []
        self.held_out: set[int] = set()
        self.holdings = {key: Holdings(key) for key in (ANCHOR, SHARED)}

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the clients."""

    @property
    @abstractmethod
    def there(self) -> Sequence[int]:
        """The clients that can be asked now."""

    @abstractmethod
    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Reach and open the clients, new or in the state of a commit.

        Return the description of the model by one of them.
        """

    @abstractmethod
    def receive(self, anchor: Weights, shared: Mapping[str, Tensor] | None) -> list[Arrival]:
        """Have clients take their next increment. Return an arrival for each client; none if all streams have ended."""

    def settle(self, arrivals: Sequence[Arrival], *, learned: bool = True) -> None:  # noqa: B027
        """Finish an increment. The rows in the arrivals are in the model or, if not `learned`, were discarded."""

    @abstractmethod
    def save(self, version: int) -> dict[str, Any]:
        """Have clients save their state for a version. Return the server's records of them."""

    def told(self) -> dict[str, Any]:
        """Return the clients' entries in the summary of a run."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Disconnect from the clients, and stop the processes started here. May be called twice."""

    def may_learn(self, client: int) -> bool:
        """Return whether a client with rows can be asked to learn the current increment."""
        return True

    def expects(self, wire: Wire | None, rules: Mapping[str, str]) -> None:
        """Decode updates from now on, of weights with these rules."""
        self.wire, self.rules = wire, rules

    def candidates(self, arrivals: Sequence[Arrival]) -> dict[int, int]:
        """Return the clients that can learn the current increment, in order: client -> number of its rows to learn."""
        return {
            client: arrival.labelled
            for client, arrival in enumerate(arrivals)
            if arrival.labelled and client not in self.held_out and self.may_learn(client)
        }

    def take_up(self, rounds: list[list[int]], arrivals: Sequence[Arrival]) -> list[list[int]]:
        """Return the participants of each round for these drawn clients. Their arrivals describe the rows."""
        return rounds

    def whom(self, participants: Sequence[int], number: int) -> Sequence[Mapping[str, ArrayRecord]] | None:
        """Return the drawn clients of each participant of a round; None if each participant is one client."""
        return None

    def answering(self, drawn: Sequence[int], number: int) -> Sequence[int]:
        """Return those of the drawn clients that are asked in a round of the current increment."""
        return drawn

    def batched(self, clients: Sequence[int], orders: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return orders to learn with the number of each client's batch, if clients learn in batches."""
        return orders

    # -- a question --------------------------------------------------------------------------------------------------

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
    ) -> dict[int, RecordDict]:
        """Send a message to each of these clients that can be asked. Return the accepted answers, by client.

        Law 8 is kept here: sums run in the order of `clients`, whatever the order of the answers.
        """
        places = [place for place, client in enumerate(clients) if self._may_ask(client)]
        clients = [clients[place] for place in places]
        sendings = self._sendings(anchor, shared, ahead=action in JUDGES)
        every = ConfigRecord(dict(order or {})) if orders is None and self.alike else None
        orders_of = {
            client: self._order(client, (order or {}) if orders is None else orders[place]) if every is None else every
            for place, client in zip(places, clients, strict=True)
        }
        beside = {
            client: {} if records is None else records[place] for place, client in zip(places, clients, strict=True)
        }

        def content_for(client: int) -> RecordDict:
            common = [sending.records(client) for sending in sendings]
            return RecordDict(
                {**{k: v for one in common for k, v in one.items()}, **beside[client], ORDER: orders_of[client]}
            )

        answers = self._answers(action, {client: content_for(client) for client in clients}, sendings)
        lacking = [client for client, answer in answers.items() if _lacks(answer)]
        if lacking:  # they were restarted, and hold nothing
            for holdings in self.holdings.values():
                for client in lacking:
                    holdings.forget(client)
            answers |= self._answers(action, {client: content_for(client) for client in lacking}, sendings)
        sizes = {client: _size(answer) for client, answer in answers.items()}  # before decoding
        found = self._accepted(action, clients, list(answers.values()), anchor)
        for client in found:
            for sending in sendings:
                sending.accepted(client)
        self.up.update({client: sizes[client] for client in found})
        self.seconds += _busiest(list(found.values()))
        costs = [answer.config_records[WORK] for answer in found.values()]
        self.cpu_seconds += sum(float(str(cost["cpu_seconds"])) for cost in costs)
        self.memory = max([self.memory, *(float(str(cost["memory"])) for cost in costs)])
        return found

    def _answers(
        self, action: str, contents: Mapping[int, RecordDict], sendings: Sequence[Sending]
    ) -> dict[int, Message | None]:
        """Send a message to each client. Return the answers in the same order; None for one that has not arrived."""
        nodes = {client: self._node(client) for client in contents}
        # A list, because Flower's grid over HTTP iterates over the messages twice.
        sent = [Message(content, nodes[client], action) for client, content in contents.items()]
        with failures_of(self._reached, f"asking clients to {action.partition('.')[2]}"):
            replies = {reply.metadata.src_node_id: reply for reply in self._exchange(sent)} if sent else {}
        for client, content in contents.items():
            self.down[client] += payload(content) - sum(sending.bytes_ahead(client) for sending in sendings)
        return {client: replies.get(node) for client, node in nodes.items()}

    def _sendings(self, anchor: Weights | None, shared: Mapping[str, Tensor] | None, *, ahead: bool) -> list[Sending]:
        """Return the messages with the tensors of a question. Each client receives those that it does not hold."""
        found = [] if anchor is None else [self.holdings[ANCHOR].sending(anchor, ahead=ahead)]
        if shared:
            names = found[0].names if found else None
            found.append(self.holdings[SHARED].sending(shared, names, ahead=ahead))
        return found

    def _begin_holding(self, commit: Commit | None) -> None:
        """Assume that no client holds anything, and restore the counts of bytes from a commit."""
        self.holdings = {key: Holdings(key) for key in (ANCHOR, SHARED)}
        for key, state in ({} if commit is None else commit.engine.get("holdings", {})).items():
            self.holdings[key].load_state_dict(state)

    def _count_on(self, commit: Commit | None) -> None:
        """Restore the counts of bytes from a commit, so that an increment's bytes do not depend on restarts."""
        counted = {} if commit is None else commit.engine.get("bytes", {})
        self.down, self.up = Counter(counted.get("down", {})), Counter(counted.get("up", {}))

    def _held(self) -> dict[str, Any]:
        """Return the state of the holdings for a commit, with the bytes that count with the next increment."""
        held = {key: holdings.state_dict() for key, holdings in self.holdings.items()}
        return {"holdings": held, "bytes": {"down": dict(self.down), "up": dict(self.up)}}

    @property
    @abstractmethod
    def _reached(self) -> Grid:
        """The grid of the clients."""

    @abstractmethod
    def _node(self, client: int) -> int:
        """Return the node of a client."""

    def _may_ask(self, client: int) -> bool:
        """Return whether a client is present and can be asked."""
        return True

    def _order(self, client: int, order: Mapping[str, Any]) -> ConfigRecord:
        """Return the order for a client."""
        return ConfigRecord(dict(order))

    def _exchange(self, messages: list[Message]) -> list[Message]:
        return list(self._reached.send_and_receive(messages))

    @abstractmethod
    def _accepted(
        self, action: str, clients: Sequence[int], answers: list[Message | None], anchor: Weights | None
    ) -> dict[int, RecordDict]:
        """Return the accepted answers to a question with this anchor. An answer is None if it has not arrived."""


def budget_spent(client: str, epsilon: float, limit: float) -> tuple[str, str, str]:
    """Return the event that a client's privacy budget is spent.

    Example:
        >>> budget_spent("north", 7.911, 8.0)[1]
        'client north: epsilon 7.91 of 8'
    """
    return (
        "budget spent",
        f"client {client}: epsilon {epsilon:.3g} of {limit:g}",
        "it learns no more; its rows stay pending",
    )


@contextmanager
def failures_of(grid: Grid, doing: str) -> Iterator[None]:
    """Convert any error of a grid to EngineError. Grids over HTTP, gRPC and Ray raise different types."""
    try:
        yield
    except IncrError:
        raise
    except Exception as error:
        raise EngineError(
            f"federated: expected {type(grid).__name__} to carry messages, got {type(error).__name__}: {error} while "
            f"{doing}; {REMEDY}"
        ) from error


def _lacks(answer: Message | None) -> bool:
    return answer is not None and answer.has_content() and LACKS in answer.content


def _size(answer: Message | None) -> int:
    """Return the number of bytes of the tensors in an answer."""
    return payload(answer.content) if answer is not None and answer.has_content() else 0


def _busiest(answers: Sequence[RecordDict]) -> float:
    """Return the working time of the busiest process, in seconds."""
    worked: dict[int, float] = {}
    for answer in answers:
        work = answer.config_records[WORK]
        process = int(str(work["process"]))
        worked[process] = worked.get(process, 0.0) + float(str(work["seconds"]))
    return max(worked.values(), default=0.0)
