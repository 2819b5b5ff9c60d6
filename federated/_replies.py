"""What is wrong with a client's answer: nobody has to be believed."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Message, RecordDict
from torch import Tensor

from federated._client_failures import FAILURE
from federated._cohort import Terms
from federated._known_tensors import tensors_of
from federated._owner_records import NAMED, is_name
from federated._records import told
from federated._wire import BadCodes, Wire
from federated.client_app import SHARED, WORK
from incr_core.metrics import FINE, TRIVIAL
from incr_core.models import ADMITTED, is_id_count
from incr_core.numerics import all_finite
from incr_core.objectives import Objective
from incr_core.shown import shown

__all__ = ["COUNTS", "Asked", "Known", "Refused", "checked", "named", "sums_of", "unusual"]

COUNTS = ("labelled", "duplicates", "bad", "arriving", "predicted", "scored")
"""What a client tells of an increment, in rows."""

RULES = ("mean", "average", "sum", "max")
"""By which weights and shared state merge (`update.merge`)."""

MOST = 1 << 24
"""Rows that a client may tell of in an increment, and numbers in a sum of its."""

MOST_DIMENSIONS = 8
"""Of a sum."""

MOST_BAD = 1 << 18
"""Rows in an increment of which it may say that they cannot be used: each has an entry."""

UNUSUAL = 100.0
"""How many times as large as the others' a client's statistics of a row may be: units and kinds of rows differ."""

MOST_NAMES = 100
"""Losses and tasks in an answer."""

LOSS = re.compile(r"[\w.:-]{1,100}")
SECRET = re.compile(r"[0-9a-f]{32}")
HASH = re.compile(r"([0-9a-f]{64})?")

LATEST = 1 << 62
"""No time is later, in microseconds."""


class Refused(Exception):
    """An answer that is left out, and why.

    silent: whether there is none.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


@dataclass(frozen=True, slots=True)
class Known:
    """What a server knows of every client's answers before it has any, from its own job.

    sums: the dimensions of each sum for metrics, by its name; empty where only its objective's rows would tell.
    probes: how many numbers each probe reports. timed: whether increments are ticks of a clock.
    step: rows of an optimiser's step, over all its batches; 0: it cannot be told. passes: over an increment at most.
    once: whether rows are told once, however many passes there were, as where passes stop early. slices: their names.
    trivial: the shape of the sums of trivial predictions; None where there are none.
    """

    sums: Mapping[str, int] = field(default_factory=dict)
    probes: Sequence[int] = ()
    timed: bool = False
    step: int = 0
    passes: int = 1
    once: bool = False
    slices: frozenset[str] = frozenset()
    trivial: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a client, as far as its answer must fit it.

    anchor: the weights that were sent. shared: the strategy state as the first client has told it. most: how many rows
    the answer may stand for. generation: at which the client was. wire: how it was to code an update, None where not at
    all. rules: how weights merge.
    """

    action: str
    anchor: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    most: int
    generation: int
    known: Known = Known()
    wire: Wire | None = None
    rules: Mapping[str, str] = field(default_factory=dict)


def sums_of(objective: Objective) -> dict[str, int]:
    """The dimensions of an objective's sums for metrics, found on two made-up rows; none where it takes other rows.

    >>> from incr_core.objectives import Multiclass
    >>> sums_of(Multiclass(4))
    {'sums': 1, 'classes': 2, 'calibration': 2, 'matrix': 2, 'class_scores': 3}
    """
    flat, several, sequence = torch.zeros(2), torch.zeros(2, objective.outputs), torch.zeros(2, 3, objective.outputs)
    tried = [(several, targets) for targets in (flat, flat.long(), flat.double(), several)]
    for outputs, targets in [*tried, (sequence, torch.zeros(2, 3).long())]:
        try:
            measured = objective.measure(objective.predict(outputs), targets)
            return {name: np.ndim(sums) for name, sums in measured.items()}
        except Exception:  # whatever it may be that another objective does with them
            continue
    return {}


def unusual(observed: Mapping[int, Mapping[str, Tensor]], rows: Mapping[int, int]) -> dict[int, str]:
    """The clients whose running statistics are too large to be believed, and why; nobody can tell of fewer than three.

    >>> sums = {client: {"model.sums": torch.tensor([10.0, value])} for client, value in enumerate((1.0, 2.0, 1e9))}
    >>> unusual(sums, {0: 10, 1: 20, 2: 10})
    {2: 'statistics of model.sums of 1e+08 a row, where the median is 1; at most 100 is believed'}
    """
    found: dict[int, str] = {}
    tell = [client for client, sums in observed.items() if sums and rows[client]]
    if len(tell) < 3:
        return found
    for name in observed[tell[0]]:
        if is_id_count(name):  # as many rows as the client has told of, which is checked
            continue
        sizes = {
            client: float(sums.double().norm()) / rows[client]
            for client in tell
            if (sums := observed[client].get(name)) is not None
        }
        usual = statistics.median([size for size in sizes.values() if size] or [0.0])
        for client, size in sizes.items():
            if size > UNUSUAL * usual:
                told_of = f"where the median is {usual:.3g}; at most {UNUSUAL * usual:.3g} is believed"
                found.setdefault(client, f"statistics of {name} of {size:.3g} a row, {told_of}")
    return found


def named(who: Mapping[str, Any]) -> tuple[str, str]:
    """The name and the secret that a client has said. Raises Refused where they are none.

    >>> named({"name": "north", "identity": "0" * 32})[0]
    'north'
    >>> named({"name": "../north", "identity": "0" * 32})
    Traceback (most recent call last):
    ...
    federated._replies.Refused: the name '../north', where up to 100 characters that can be printed, ... were expected
    """
    name, identity = who.get("name"), who.get("identity")
    if not isinstance(name, str) or not name or not isinstance(identity, str):
        raise Refused("no client's file: give its node one (node-config client='/path/x.toml')")
    if not is_name(name):
        raise Refused(f"the name {name[:100]!r}, where {NAMED} were expected")
    if not SECRET.fullmatch(identity):
        raise Refused(f"a secret of {len(identity)} characters, where 32 hexadecimal digits were expected")
    return name, identity


def checked(asked: Asked, answer: Message | None) -> RecordDict:
    """The content of an answer to a question. Raises Refused where it is none, or not what it should be."""
    if answer is None:
        raise Refused("no answer in time", silent=True)
    if answer.has_error():
        raise Refused((answer.error.reason or "no reason given")[:1000], silent=True)
    content = answer.content
    try:
        if FAILURE in content:
            raise Refused(str(content.config_records[FAILURE].get("message", "it does not say why"))[:1000])
        _check(asked, content)
    except Refused:
        raise
    except Exception as error:  # whatever it may be that a client sends
        raise Refused(f"an answer that cannot be read ({type(error).__name__})") from error
    return content


def _check(asked: Asked, content: RecordDict) -> None:
    work = content.config_records[WORK]
    for cost in ("seconds", "cpu_seconds", "memory"):
        if not 0 <= float(str(work[cost])) < math.inf:
            raise Refused(f"{cost} of work that are none")
    if not HASH.fullmatch(str(work["ledger"])):
        raise Refused("a ledger whose hash is none")
    if not 0 <= int(str(work.get("erased", 0))) < LATEST:
        raise Refused("a number of erased rows that is none")
    if "spent" in work:
        _check_budget(work)
    int(str(work["process"]))
    now = int(str(work["generation"]))
    if asked.action == "query.open":
        _check_opened(told(content))
        return
    if now not in (asked.generation, asked.generation + 1):
        raise Refused(f"a state after message {now}, where {asked.generation + 1} was expected")
    if asked.action == "evaluate.receive":
        document = told(content)
        _check_coming(document["coming"])
        _check_arrival(document["arrival"], asked)
        for name in ("holds", "back"):
            if not isinstance(document[name], bool):
                raise Refused(f"{name}, which is neither true nor false")
        if asked.known.timed and document["arrival"] is not None and document["coming"] is not None:
            now_at, next_at = document["arrival"]["tick"]["time"], document["coming"]["time"]
            if next_at <= now_at:  # the others would wait for it for ever
                raise Refused("a next increment that is not later than this one")
    elif asked.action in ("train.learn", "train.review"):
        document = told(content)
        rows = document["rows"]
        if type(rows) is not int or not 0 <= rows <= asked.most:
            raise Refused(f"an update of {shown(rows, 40)} rows, where at most {asked.most} can be")
        _check_steps(document["steps"], rows, asked)
        _check_losses(document["losses"])
        _decode(content, asked)
        _check_weights(tensors_of(content, "weights", asked.anchor), asked.anchor)
    elif asked.action == "evaluate.judge":
        _check_judged(told(content)["judged"])
    elif asked.action == "evaluate.compare":
        _check_compared(told(content), asked.known)
    elif asked.action == "train.consolidate":
        _check_weights(tensors_of(content, SHARED, asked.anchor), asked.shared)
        if "weights" in content:
            _check_weights(tensors_of(content, "weights", asked.anchor), asked.anchor)


def _decode(content: RecordDict, asked: Asked) -> None:
    """Replace a coded update by the weights that it stands for, which are then checked as any others."""
    if asked.wire is not None:
        try:
            asked.wire.decode(content, asked.anchor, asked.rules)
        except BadCodes as error:
            raise Refused(str(error)) from error


def _check_steps(steps: Any, rows: int, asked: Asked) -> None:
    """As many as so many rows take: by few steps that it tells of, a client would weigh more in FedNova's mean.

    Each is of `step` rows, but for the last of a pass, which has fewer, or one more where it would be a batch of one.
    A review tells none.
    """
    size, told_of = asked.known.step, shown(steps, 40)
    if type(steps) is not int or not 0 <= steps <= asked.most:
        raise Refused(f"an update of {told_of} steps, where {rows} rows were learned")
    if size and asked.action == "train.learn":
        passes, of_one = asked.known.passes if rows else 0, rows // size
        least, most = -(-rows // (size + 1)), of_one + passes
        if asked.known.once:  # and those that were held back, in one pass
            most = passes * (of_one + 1) + 1
        if not least <= steps <= most:
            raise Refused(f"an update of {told_of} steps, where {rows} rows take {least} to {most}")


def _check_budget(work: Mapping[str, Any]) -> None:
    """What is spent, and of how much."""
    known = all(isinstance(work[key], float) and 0 <= work[key] < math.inf for key in ("epsilon", "limit"))
    if not known or not isinstance(work["spent"], bool):
        raise Refused("a privacy budget that is none")


def _check_judged(sums: Tensor) -> None:
    """A number of rows, and sums over them."""
    if sums.shape != (5,) or not sums.is_floating_point() or not 0 <= float(sums[0]) <= MOST:
        raise Refused("sums over rows of the past that are none")
    _check_finite({"sums over rows of the past": sums})


def _check_compared(document: Mapping[str, Any], known: Known) -> None:
    """Sums over rows held back, and what the metrics of both versions are made of."""
    _check_judged(document["sums"])
    for name in ("champion", "challenger"):
        _check_sums(document[name], known, coarse=True)


def _check_opened(document: Mapping[str, Any]) -> None:
    """What a client tells of the model, which for the first one becomes everybody's."""
    Terms.of(document)
    for key in ("rules", "shared_rules"):
        if not all(rule in RULES for rule in document[key].values()):
            raise Refused(f"{key} by other names than {', '.join(RULES)}")
    for key, rules in (("weights", "rules"), ("shared", "shared_rules")):
        if document[key] and document[key].keys() != document[rules].keys():
            raise Refused(f"{key} by other names than those that have rules")
        _check_finite(document[key])
    _check_coming(document["coming"])


def _check_coming(coming: Any) -> None:
    if coming is not None and not _is_time(coming["time"]):
        raise Refused(f"coming = {shown(repr(coming['time']), 40)}, where a time was expected")


def _is_time(value: Any) -> bool:
    return type(value) is int and abs(value) < LATEST


def _check_losses(losses: Mapping[str, Any]) -> None:
    if len(losses) > MOST_NAMES or not all(isinstance(name, str) and LOSS.fullmatch(name) for name in losses):
        raise Refused("a loss by a name that is none")
    if not all(math.isfinite(float(loss)) for loss in losses.values()):
        raise Refused("a loss that is not finite")


def _check_weights(weights: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
    """Weights have names, shapes and types of the anchor's, and are finite."""
    if weights.keys() != anchor.keys():
        raise Refused("weights by other names")
    for name, value in weights.items():
        mine = anchor[name]
        if value.shape != mine.shape or value.dtype != mine.dtype:
            raise Refused(
                f"{name} of {tuple(value.shape)} {value.dtype}, where {tuple(mine.shape)} {mine.dtype} was sent"
            )
    _check_finite(weights)


def _check_finite(tensors: Mapping[Any, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not all_finite(value):
            raise Refused(f"{name} has values that are not finite")


def _check_arrival(arrival: Any, asked: Asked) -> None:
    """Counts are counts, and sums are finite and of the shapes that the job has."""
    if arrival is None:
        return
    for key in COUNTS:
        most = MOST_BAD if key == "bad" else MOST
        if type(arrival[key]) is not int or not 0 <= arrival[key] < most:
            raise Refused(
                f"{key} = {shown(repr(arrival[key]), 40)}, where a number of rows below {most:,} was expected"
            )
    tick = arrival["tick"]
    if not (_is_time(tick["time"]) and isinstance(tick["warm"], bool) and isinstance(tick["name"], str)):
        raise Refused("an increment without a name and a time")
    if not 0 <= float(arrival["seconds"]) < math.inf:
        raise Refused("seconds that are not finite")
    anchor = asked.anchor
    for name, value in arrival["observed"].items():
        if is_id_count(name):
            _check_ids(name, value, arrival["labelled"], anchor)
        elif name not in anchor or (value.shape, value.dtype) != (anchor[name].shape, anchor[name].dtype):
            raise Refused(f"statistics of {shown(name, 40)}, which has none of that shape")
    _check_finite(arrival["observed"])
    _check_sums(_thick(arrival["statistics"]), asked.known)
    _check_slices(arrival, asked.known)
    probed, probes = arrival["probed"], asked.known.probes
    if probed and [value.shape[1:] for value in probed] != [(2, count) for count in probes]:
        raise Refused(f"probes of other shapes than the {len(probes)} that the job has")
    _check_finite(dict(enumerate(probed)))
    tasks = arrival["tasks"]
    if len(tasks) > MOST_NAMES or not all(type(task) is int and abs(task) < LATEST for task in tasks):
        raise Refused("tasks that are no numbers")


def _check_ids(name: str, counts: Tensor, rows: int, anchor: Mapping[str, Tensor]) -> None:
    """Distinct ids, each seen in some of the rows, behind an entry that counts all rows."""
    if name.removesuffix(ADMITTED) + ".keys" not in anchor:
        raise Refused(f"counts of ids of {shown(name, 40)}, which is no table of ids")
    if counts.dtype != torch.int64 or counts.dim() != 2 or counts.shape[1] != 2 or not 1 <= len(counts) <= rows + 1:
        raise Refused("counts of ids that are none")
    keys, times = counts.unbind(1)
    right = int(keys[0]) == 0 and int(times[0]) == rows and bool((times > 0).all())
    if not right or int(times[1:].sum()) > rows or len(torch.unique(keys)) < len(keys):
        raise Refused(f"counts of ids that do not fit {rows} rows")


def _check_slices(arrival: Mapping[str, Any], known: Known) -> None:
    """Slices are of the job, and their counts are counts."""
    for name, (rows, sums) in arrival["sliced"].items():
        if name not in known.slices:
            raise Refused(f"metrics of the slice {shown(name, 40)}, which the job does not name")
        if type(rows) is not int or not 0 < rows <= MOST:
            raise Refused(f"metrics of a slice of {shown(rows, 40)} rows")
        _check_sums(sums, known, coarse=True)


def _thick(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Sums, and in place of thinned ones (`_records.thinned`) their values, with as many dimensions, once they fit.

    Nothing of the size that a client states is allocated here.
    """
    found = dict(statistics)
    for name, sums in statistics.items():
        if not isinstance(sums, Mapping):
            continue
        shape, at, values = sums["shape"], sums["at"], sums["values"]
        lengths = isinstance(shape, list) and all(type(length) is int and length > 0 for length in shape)
        size = math.prod(shape) if lengths and 1 <= len(shape) <= MOST_DIMENSIONS else 0
        if not 0 < size <= MOST or not all(isinstance(one, np.ndarray) and one.ndim == 1 for one in (at, values)):
            raise Refused("thinned sums without a shape")
        if len(at) != len(values) or at.dtype != np.int64 or not _ascends(at, size):
            raise Refused("thinned sums at places that are none")
        found[name] = values.reshape(-1, *[1] * (len(shape) - 1))
    return found


def _ascends(places: np.ndarray[Any, Any], size: int) -> bool:
    return not len(places) or bool(places[0] >= 0 and places[-1] < size and (np.diff(places) > 0).all())


def _check_sums(statistics: Mapping[str, Any], known_of: Known, *, coarse: bool = False) -> None:
    """Sums for the job's metrics are finite and of their dimensions; coarse: without those of `metrics.FINE`."""
    told_of, known = dict(statistics), known_of.sums
    if coarse:
        known = {name: dimensions for name, dimensions in known.items() if name not in FINE}
    trivial = told_of.get(TRIVIAL)
    if coarse and trivial is not None:
        raise Refused("sums for other metrics than the job's")
    if isinstance(trivial, np.ndarray) and trivial.dtype.kind == "f" and trivial.shape == known_of.trivial:
        if not np.isfinite(told_of.pop(TRIVIAL)).all():
            raise Refused("sums for metrics that are not finite")
    elif trivial is not None:
        raise Refused("sums for other metrics than the job's")
    for name, sums in told_of.items():
        if not isinstance(sums, np.ndarray) or sums.dtype.kind not in "fiu" or sums.size > MOST:
            raise Refused("sums for metrics that are no numbers")
        if not np.isfinite(sums).all():
            raise Refused("sums for metrics that are not finite")
        if known and known.get(name) != sums.ndim:
            raise Refused("sums for other metrics than the job's")
    if told_of and known and told_of.keys() != known.keys():
        raise Refused("sums for other metrics than the job's")
