"""The search space of `incr tune`: keys of a job with ranges or choices, and draws from them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from incr_core.engines import Trial
from incr_core.errors import JobError
from incr_core.job import Job

__all__ = ["Choices", "Range", "drawn_trials", "search_space"]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")

LOGARITHMIC = 10.0
"""Ratio of the ends of a range from which on its logarithm is drawn uniformly."""

RATE = 1e-3
"""The learning rate around which is searched, of an optimiser that is given none."""

INCOMPARABLE = ("stream", "features.label", "learner.objective")
"""Keys and sections that change which rows and labels the metric is computed on; the size of an increment does not."""

WITHOUT_EFFECT = ("name", "root", "cluster", "federated", "track", "alerts", "baselines")
"""Keys and sections that a trial in one process does not use, or that do not change what it learns."""

AROUND = 30.0
"""The default range of the learning rate: from the job's divided by this to the job's times this."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, uniform in the logarithm if both are positive and one is ten times the other or more.

    Example:
        >>> Range("learner.optimizer.lr", 1e-4, 1e-1, whole=False).draw(np.random.default_rng(0))
        'learner.optimizer.lr=0.00814'
    """

    key: str
    low: float
    high: float
    whole: bool

    def draw(self, random: np.random.Generator) -> str:
        """Return a setting; whole numbers if both ends are, else three digits."""
        if self.low > 0 and self.high >= LOGARITHMIC * self.low:
            value = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = random.uniform(self.low, self.high)
        return f"{self.key}={min(round(value), int(self.high)) if self.whole else float(f'{value:.3g}')}"


@dataclass(frozen=True, slots=True)
class Choices:
    """TOML values, each as likely as the others.

    Example:
        >>> Choices("learner.batch_size", ("32", "64")).draw(np.random.default_rng(0))
        'learner.batch_size=64'
    """

    key: str
    values: tuple[str, ...]

    def draw(self, random: np.random.Generator) -> str:
        """Return a setting."""
        return f"{self.key}={self.values[random.integers(len(self.values))]}"


def search_space(job: Job, texts: Sequence[str]) -> list[Range | Choices]:
    """Return the space that "KEY=A..B" and "KEY=X|Y|Z" describe; without texts, learning rate and batch size.

    Raises:
        JobError: A text is neither, a range is empty, the job refuses a key or one of its values, or the metrics of
            trials that differ in the key would say nothing about it.

    Example:
        >>> job = Job.from_document(
        ...     {"stream": {"path": "."}, "features": {"label": "y"}, "learner": {"objective": "binary"}}
        ... )
        >>> [one.key for one in search_space(job, [])]
        ['learner.optimizer.lr', 'learner.batch_size']
        >>> search_space(job, ["learner.batch_size=32|64"])
        [Choices(key='learner.batch_size', values=('32', '64'))]
        >>> search_space(job, ["learner.batch_size=64..32"])
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: learner.batch_size=64..32: expected A..B with A below B, got 64 and 32
    """
    if not texts:
        rate, batch = job.learner.optimizer.arguments.get("lr", RATE), job.learner.batch_size
        sizes = sorted({max(1, batch // 2), batch, 2 * batch})
        return [
            Range("learner.optimizer.lr", rate / AROUND, rate * AROUND, whole=False),
            Choices("learner.batch_size", tuple(map(str, sizes))),
        ]
    space = [_dimension(text) for text in texts]
    if repeated := {one.key for one in space if sum(one.key == other.key for other in space) > 1}:
        raise JobError(f"{min(repeated)}: expected one range or list of choices, got several; join choices with |")
    for one in space:
        _check_key(one.key)
        ends = one.values if isinstance(one, Choices) else (_number(one.low, one.whole), _number(one.high, one.whole))
        for value in ends:
            job.with_settings([f"{one.key}={value}"])
    return space


def drawn_trials(job: Job, space: Sequence[Range | Choices], count: int, seed: int) -> list[Trial]:
    """Return the trials: the job as it is, and `count - 1` draws without repetition, the same for the same seed.

    Settings that the job already has are not drawn. There are fewer trials where the choices have fewer combinations.

    Example:
        >>> job = Job.from_document(
        ...     {"stream": {"path": "."}, "features": {"label": "y"}, "learner": {"objective": "binary"}}
        ... )
        >>> space = [Choices("learner.batch_size", ("16", "32", "64"))]  # the job has 32
        >>> [trial.settings for trial in drawn_trials(job, space, 4, seed=0)]
        [(), ('learner.batch_size=64',), ('learner.batch_size=16',)]
    """
    random = np.random.default_rng(seed)
    found, own = dict[tuple[str, ...], None](), set[tuple[str, ...]]()
    for _ in range(100 * count):
        if len(found) == count - 1:
            break
        drawn = tuple(one.draw(random) for one in space)
        if drawn not in found and drawn not in own:
            if _changes(job, drawn):
                found[drawn] = None
            else:
                own.add(drawn)
    return [Trial(number, settings) for number, settings in enumerate([(), *found])]


def _changes(job: Job, settings: Sequence[str]) -> bool:
    """Whether these settings make another job. If the job refuses them together, the trial reports it."""
    try:
        return job.with_settings(settings) != job
    except JobError:
        return True


def _dimension(text: str) -> Range | Choices:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key or not values:
        raise JobError(f'{text}: expected "section.key=A..B" or "section.key=X|Y", got no "="')
    if ends := RANGE.fullmatch(values):
        low, high = map(float, ends.groups())
        if low >= high:
            raise JobError(f"{text}: expected A..B with A below B, got {ends[1]} and {ends[2]}")
        return Range(key, low, high, whole=not re.search("[.eE]", ends[1] + ends[2]))
    choices = tuple(value.strip() for value in values.split("|"))
    if len(set(choices)) < 2 or not all(choices):
        raise JobError(f"{text}: expected a range A..B or two choices X|Y or more, got {values}")
    return Choices(key, choices)


def _check_key(key: str) -> None:
    """Refuse a key whose values cannot be compared by the metric of a trial."""
    if _within(key, INCOMPARABLE) and key != "stream.every":
        reason = "trials would be measured on other rows or labels"
    elif _within(key, WITHOUT_EFFECT):
        reason = "it does not change what a trial learns, which runs in one process"
    else:
        return
    raise JobError(
        f"{key}: expected a key that trials can be compared by, got one that they cannot: {reason}; leave it out"
    )


def _within(key: str, places: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{place}.") for place in places)


def _number(value: float, whole: bool) -> str:
    return str(int(value)) if whole else repr(value)
