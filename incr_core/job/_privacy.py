"""Differential privacy settings: of an owner in its file, and of a server in its job."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from incr_core._util import build
from incr_core.errors import IncrError
from incr_core.privacy import Accountant, AdaptiveClip, least_noise

__all__ = ["ClientPrivacy", "ServerPrivacy"]


class _Promise(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    delta: float = Field(1e-5, gt=0, lt=1)
    """Delta of the promise (epsilon, delta)."""
    noise: float = Field(1.0, gt=0)
    """Standard deviation of the noise, in units of the clip."""

    def _check_buys_a_step(self, epsilon: float) -> None:
        once = Accountant()
        once.add(self.noise)
        if (costs := once.epsilon(self.delta)) > epsilon:
            raise ValueError(
                f"noise: expected enough for one step within epsilon = {epsilon:g}, got {self.noise:g}, with which one "
                f"costs {costs:.3g}; at least {least_noise(epsilon, self.delta):g}"
            )


class ClientPrivacy(_Promise):
    """A client's promise: (epsilon, delta) for what it hides, its unit, and the noise and the clip that hide it.

    >>> ClientPrivacy(epsilon=1.0, noise=0.5)
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for ClientPrivacy
      Value error, noise: expected enough for one step within epsilon = 1, got 0.5, with which one costs 10.7; ...
    """

    epsilon: float | None = Field(None, gt=0)
    """The budget. Default: nothing is promised."""
    unit: Literal["rows", "row", "client"] = "rows"
    """What is hidden. `"rows"`: one row of every increment, all of them together. `"row"`: each row by itself.
    `"client"`: all rows of the client.
    """
    clip: float = Field(1.0, gt=0)
    """The largest norm of the gradient of a row, or of the update of a client."""
    metrics: bool = False
    """Whether sums for metrics are reported, without noise and outside of the promise."""

    @model_validator(mode="after")
    def _is_a_promise(self) -> Self:
        if self.epsilon is not None:
            self._check_buys_a_step(self.epsilon)
        elif given := self.model_fields_set & {*ClientPrivacy.model_fields}:
            raise ValueError(f"{min(given)}: expected epsilon too, the budget; add it, or leave this out")
        return self


class ServerPrivacy(_Promise):
    """Differential privacy of the server's models with clients as the unit: the budget and the noise of a round."""

    epsilon: float = Field(gt=0)
    """The budget. Required."""
    clip: float | dict[str, Any] = 1.0
    """The largest norm of an update; or `{ quantile = 0.5, start = 0.1, rate = 0.2, count_noise }`, which follows the
    updates.
    """
    clients: int | None = Field(None, ge=1)
    """The number by which the sum of updates is divided. Default: the expected number of clients."""

    @model_validator(mode="after")
    def _is_a_promise(self) -> Self:
        self._check_buys_a_step(self.epsilon)
        if isinstance(self.clip, dict):
            try:
                self.clipping()
            except IncrError as error:
                raise ValueError(str(error)) from None
        elif not self.clip > 0:
            raise ValueError(f"clip: expected a number above 0, got {self.clip:g}")
        return self

    def clipping(self) -> float | AdaptiveClip:
        """The clip: a number, or one that follows the updates."""
        if not isinstance(self.clip, dict):
            return self.clip
        adaptive: AdaptiveClip = build(AdaptiveClip, self.clip, "clip")
        return adaptive
