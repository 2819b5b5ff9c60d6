"""Names as MLflow accepts them."""

from __future__ import annotations

import re

__all__ = ["key_of", "model_name"]

LONGEST = 250
"""Characters of the key of a metric or a parameter."""


def key_of(name: str) -> str:
    """Return the key of a metric or parameter: other characters than letters, digits and `_-. :/` become `_`.

    Example:
        >>> key_of("metric/f1 of a=b"), key_of("loss/x//y"), key_of("stream./data")
        ('metric/f1 of a_b', 'loss/x/y', 'stream./data')
    """
    plain = re.sub(r"[^\w\-. :/]", "_", name)
    return re.sub("/+", "/", plain)[:LONGEST].strip("/")


def model_name(job: str) -> str:
    """Return the name of the registered model of a job.

    Example:
        >>> model_name("flights"), model_name("team/it's: flights")
        ('flights', 'team-it-s- flights')
    """
    return re.sub(r"[/:'\"`\\]", "-", job)
