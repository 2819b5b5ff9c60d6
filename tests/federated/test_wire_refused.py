"""Codes that no honest client sends, orders that no honest server gives, and jobs that ask for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from federated._asked import Asked, Refused
from federated._flower_privates import flat_array
from federated._records import pack, unpack
from federated._replies import _check_weights, _decode
from federated._wire import CODES, Wire
from incr_core.errors import EngineError, JobError
from incr_core.registry import RunDirectory
from tests.support.coded_updates import RULES, learned
from tests.support.federated_runs import events, finish, people
from tests.support.federations import deployed
from tests.support.owners_grid import OwnersGrid

pytestmark = pytest.mark.flower

# -- hostile clients ---------------------------------------------------------------------------------------------------


def codes_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[RecordDict], None]:
    """Other codes."""

    def spoil(content: RecordDict) -> None:
        record = content.array_records["weights"]
        codes = np.frombuffer(record[CODES].data, np.uint8).copy()
        record[CODES] = flat_array(np.ascontiguousarray(change(codes)).view(np.uint8))

    return spoil


def placed(change: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], np.ndarray]:
    """Other places of the numbers of a sparse update."""

    def spoil(codes: np.ndarray) -> np.ndarray:
        change(codes[: 4 * 123].view(np.int32))
        return codes

    return spoil


def swap(places: np.ndarray) -> None:
    places[[0, 1]] = places[[1, 0]]


def unfinite(codes: np.ndarray) -> np.ndarray:
    codes[4 * 123 : 4 * 123 + 4].view(np.float32)[:] = np.nan
    return codes


def without_codes(content: RecordDict) -> None:
    del content.array_records["weights"][CODES]


def whole(content: RecordDict) -> None:
    content["weights"] = pack(learned()[1])


HOSTILE: dict[str, tuple[Callable[[RecordDict], None], str]] = {
    "a byte too few": (codes_of(lambda codes: codes[:-1]), "bytes of codes, got"),
    "a block more": (codes_of(lambda codes: np.concatenate([codes, codes[:260]])), "bytes of codes, got"),
    "nothing": (codes_of(lambda codes: codes[:0]), "bytes of codes, got 0"),
    "a bomb": (codes_of(lambda codes: np.zeros(1 << 26, np.uint8)), "bytes of codes, got 67,108,864"),
    "no codes": (without_codes, "bytes of codes, got 0"),
    "weights as they are": (whole, "bytes of codes, got 0"),
    "a place too large": (codes_of(placed(lambda places: places.__setitem__(-1, 1230))), "123 ascending places"),
    "a place far too large": (codes_of(placed(lambda places: places.__setitem__(-1, 2**31 - 1))), "ascending places"),
    "a place below 0": (codes_of(placed(lambda places: places.__setitem__(0, -1))), "123 ascending places"),
    "a place twice": (codes_of(placed(lambda places: places.__setitem__(1, places[0]))), "123 ascending places"),
    "places in another order": (codes_of(placed(swap)), "123 ascending places"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_codes_that_no_update_has_are_refused(kind: str) -> None:
    wire, (anchor, weights) = Wire("int8", 0.1, True), learned()
    asked = Asked("train.learn", anchor, {}, 10, 0, wire=wire, rules=RULES)
    content = RecordDict({"weights": wire.pack(weights, anchor, RULES, {})})
    spoil, why = HOSTILE[kind]
    spoil(content)
    with pytest.raises(Refused, match=why) as refused:
        _decode(content, asked)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_scales_that_are_not_finite_are_found_in_the_decoded_update() -> None:
    wire, (anchor, weights) = Wire("int8", 0.1, True), learned()
    content = RecordDict({"weights": wire.pack(weights, anchor, RULES, {})})
    codes_of(unfinite)(content)
    wire.decode(content, anchor, RULES)
    with pytest.raises(Refused, match="not finite"):
        _check_weights(unpack(content.array_records["weights"]), anchor)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (codes_of(lambda codes: codes[:-1]), "bytes of codes, got"),
        (codes_of(lambda codes: np.full_like(codes, 0xFF)), "not finite"),
        (codes_of(lambda codes: np.concatenate([np.full(4, 0x50, np.uint8), codes[4:]])), "moved by "),
    ],
    ids=["too few bytes", "scales that are not finite", "a scale that is too large"],
)
def test_a_hostile_owner_costs_the_others_nothing(
    grid: Callable[..., OwnersGrid], tmp_path: Path, spoil: Callable[[RecordDict], None], why: str
) -> None:
    def spoils(reply: Message, name: str) -> None:
        if name == "red" and reply.metadata.message_type == "train.learn":
            spoil(reply.content)

    settings = ["federated.wire=int8", "federated.min_clients=2"]
    finish(deployed(*settings), tmp_path / "run", grid(spoils=spoils).engine)
    told = [what for kind, what in events(tmp_path / "run") if kind == "client refused"]
    assert len(told) == 3
    assert all(what.startswith("client red: ") and why in what for what in told)
    learners = {row["participant"] for row in RunDirectory.open(tmp_path / "run").table("ledger").to_pylist()}
    assert learners == {"blue", "green"}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        {"wire": "float8", "feedback": True},
        {"wire": 8, "feedback": True},
        {"wire": "int8"},
        {"wire": "int8", "feedback": True, "top_k": 0.0},
        {"wire": "int8", "feedback": True, "top_k": 1e9},
        {"wire": "int8", "feedback": True, "top_k": float("nan")},
        {"wire": "int8", "feedback": True, "top_k": "1"},
    ],
)
def test_a_client_refuses_an_order_of_no_known_coding(order: dict[str, object]) -> None:
    with pytest.raises(EngineError, match="order to learn: expected wire"):
        Wire.ordered(order)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["federated.wire=int4"], "federated.wire"),
        (["federated.top_k=0.5"], "federated.top_k"),
        (["federated.error_feedback=false"], "federated.error_feedback: expected wire or top_k too"),
        (["federated.top_k=0.01", "federated.aggregation=median"], "federated.top_k: expected a mean or krum"),
        (
            ["federated.top_k=0.01", "federated.aggregation={name='trimmed_mean', share=0.2}"],
            "federated.top_k: expected a mean or krum",
        ),
        (
            ["federated.wire=int8", "federated.stateless=true", "federated.batch_clients=10"],
            "federated.stateless: expected clients of which nothing is kept or known but their rows, got wire or top_k",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_by_name(table: Path, settings: list[str], why: str) -> None:
    with pytest.raises(JobError, match=why):
        people(table, *settings)
