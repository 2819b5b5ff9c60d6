"""The clients of a run as the server reaches them: asked all at once, and answering in one order."""

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
"""Questions that are answered by an update."""

JUDGES = ("evaluate.judge", "evaluate.compare")
"""Questions about a version, after an increment. They carry the anchor ahead of the next increment, which counts it."""


class Roster(ABC):
    """Who the clients are, in the order of their shares in every sum, and how each is asked.

    names, origins: of the clients, and of what rows are from by the numbers that their ids bear, as far as it is known.
    alike: whether an order that is given to all is the same for each.
    failed: clients whose answers did not come, or were left out, and why; since the last increment.
    held_out: clients that never learn, and on whose rows the model is evaluated.
    down, up: bytes of the tensors sent to, and received from, each client. seconds: for each question, that the busiest
    process worked. All add up.
    cpu_seconds, memory: of all processes, and of the one that took most (`Usage.spent`); since the last increment.
    wire, rules: how clients code what they learn, None where weights travel unchanged; and how weights merge.
    holdings: what each client holds of the anchor and of the merged strategy state, by the record's name.
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
        """The clients' names."""

    @property
    @abstractmethod
    def there(self) -> Sequence[int]:
        """The clients that can be asked now."""

    @abstractmethod
    def start(self, commit: Commit | None) -> Mapping[str, Any]:
        """Reach the clients, and let each become itself: fresh, or as it was at a commit. Returns what one has told."""

    @abstractmethod
    def receive(self, anchor: Weights, shared: Mapping[str, Tensor] | None) -> list[Arrival]:
        """Let clients take their next increment: an arrival for each client, none where all streams have ended."""

    def settle(self, arrivals: Sequence[Arrival], *, learned: bool = True) -> None:  # noqa: B027
        """An increment is over: the rows still told of are in the model or, if not `learned`, were let go."""

    @abstractmethod
    def save(self, version: int) -> dict[str, Any]:
        """Let clients keep their state for a version; returns what is to be known of them then."""

    def told(self) -> dict[str, Any]:
        """What the summary of a run tells of them."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Leave them, and stop what was started here. May be called twice."""

    def may_learn(self, client: int) -> bool:
        """Whether a client with rows can be asked to learn the increment at hand."""
        return True

    def expects(self, wire: Wire | None, rules: Mapping[str, str]) -> None:
        """Decode updates from now on, of weights with these rules."""
        self.wire, self.rules = wire, rules

    def candidates(self, arrivals: Sequence[Arrival]) -> dict[int, int]:
        """Of the increment at hand, the clients that can be asked to learn, in order: client -> its rows to learn."""
        return {
            client: arrival.labelled
            for client, arrival in enumerate(arrivals)
            if arrival.labelled and client not in self.held_out and self.may_learn(client)
        }

    def take_up(self, rounds: list[list[int]], arrivals: Sequence[Arrival]) -> list[list[int]]:
        """The participants of each round, for which these clients are drawn; their arrivals tell of the rows."""
        return rounds

    def whom(self, participants: Sequence[int], number: int) -> Sequence[Mapping[str, ArrayRecord]] | None:
        """For each participant of the round of that number, which of its clients are drawn; None: it is one itself."""
        return None

    def answering(self, drawn: Sequence[int], number: int) -> Sequence[int]:
        """Of those drawn for the round of that number of the increment at hand, who is to be asked."""
        return drawn

    def batched(self, clients: Sequence[int], orders: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Orders to learn, with the batch that each client is learned in, where several are learned as one."""
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
        """Send a message to each of these clients that can be asked; returns the answers that are accepted, by client,
        in the same order.

        Law 8 is kept here: whoever answers first, sums run in the order of `clients`.
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
        if lacking:  # they were started again, and hold nothing
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
        """Send a message to each client; returns the answers in the same order, None where one has not come."""
        nodes = {client: self._node(client) for client in contents}
        # A list: Flower's grid over HTTP goes through the messages twice.
        sent = [Message(content, nodes[client], action) for client, content in contents.items()]
        with failures_of(self._reached, f"asking clients to {action.partition('.')[2]}"):
            replies = {reply.metadata.src_node_id: reply for reply in self._exchange(sent)} if sent else {}
        for client, content in contents.items():
            self.down[client] += payload(content) - sum(sending.bytes_ahead(client) for sending in sendings)
        return {client: replies.get(node) for client, node in nodes.items()}

    def _sendings(self, anchor: Weights | None, shared: Mapping[str, Tensor] | None, *, ahead: bool) -> list[Sending]:
        """The tensors of a question, of which each client is sent those that it does not hold."""
        found = [] if anchor is None else [self.holdings[ANCHOR].sending(anchor, ahead=ahead)]
        if shared:
            names = found[0].names if found else None
            found.append(self.holdings[SHARED].sending(shared, names, ahead=ahead))
        return found

    def _begin_holding(self, commit: Commit | None) -> None:
        """Take every client to hold nothing; count bytes on from a commit."""
        self.holdings = {key: Holdings(key) for key in (ANCHOR, SHARED)}
        for key, state in ({} if commit is None else commit.engine.get("holdings", {})).items():
            self.holdings[key].load_state_dict(state)

    def _count_on(self, commit: Commit | None) -> None:
        """Count bytes on from a commit: an increment's bytes do not depend on how often the run was started."""
        counted = {} if commit is None else commit.engine.get("bytes", {})
        self.down, self.up = Counter(counted.get("down", {})), Counter(counted.get("up", {}))

    def _held(self) -> dict[str, Any]:
        """What a commit keeps of the holdings, and the bytes that count with the next increment."""
        held = {key: holdings.state_dict() for key, holdings in self.holdings.items()}
        return {"holdings": held, "bytes": {"down": dict(self.down), "up": dict(self.up)}}

    @property
    @abstractmethod
    def _reached(self) -> Grid:
        """The grid on which they are."""

    @abstractmethod
    def _node(self, client: int) -> int:
        """The node of a client."""

    def _may_ask(self, client: int) -> bool:
        """Whether a client is there to be asked."""
        return True

    def _order(self, client: int, order: Mapping[str, Any]) -> ConfigRecord:
        """An order as a client gets it."""
        return ConfigRecord(dict(order))

    def _exchange(self, messages: list[Message]) -> list[Message]:
        return list(self._reached.send_and_receive(messages))

    @abstractmethod
    def _accepted(
        self, action: str, clients: Sequence[int], answers: list[Message | None], anchor: Weights | None
    ) -> dict[int, RecordDict]:
        """What is to be made of their answers to a question with this anchor; None where one has not come."""


def budget_spent(client: str, epsilon: float, limit: float) -> tuple[str, str, str]:
    """The event that a client's privacy budget is spent.

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


def _lacks(answer: Message | None) -> bool:
    return answer is not None and answer.has_content() and LACKS in answer.content


def _size(answer: Message | None) -> int:
    """Bytes of the tensors in an answer."""
    return payload(answer.content) if answer is not None and answer.has_content() else 0


def _busiest(answers: Sequence[RecordDict]) -> float:
    """Seconds that the process which worked longest has worked."""
    worked: dict[int, float] = {}
    for answer in answers:
        work = answer.config_records[WORK]
        process = int(str(work["process"]))
        worked[process] = worked.get(process, 0.0) + float(str(work["seconds"]))
    return max(worked.values(), default=0.0)
