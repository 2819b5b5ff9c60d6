"""What somebody promises about what can be learned of rows: an owner in its file, a server in its job."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from incr_core._util import build
from incr_core.errors import IncrError
from incr_core.privacy import Accountant, AdaptiveClip, least_noise

__all__ = ["ClientPrivacy", "ServerPrivacy"]


class _Promise(BaseModel):
    model_config = ConfigDict(extra="forbid")

    delta: float = Field(1e-5, gt=0, lt=1)
    noise: float = Field(1.0, gt=0)

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

    epsilon: None: nothing is promised.
    unit: "rows": one row of every increment, all of them together. "row": each row by itself. "client": all rows.
    noise: its standard deviation, by the clip. clip: the largest norm of a row's gradient, or of a client's update.
    metrics: whether sums for metrics are told, which nothing hides.

    >>> ClientPrivacy(epsilon=1.0, noise=0.5)
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for ClientPrivacy
      Value error, noise: expected enough for one step within epsilon = 1, got 0.5, with which one costs 10.7; ...
    """

    epsilon: float | None = Field(None, gt=0)
    unit: Literal["rows", "row", "client"] = "rows"
    clip: float = Field(1.0, gt=0)
    metrics: bool = False

    @model_validator(mode="after")
    def _is_a_promise(self) -> Self:
        if self.epsilon is not None:
            self._check_buys_a_step(self.epsilon)
        elif given := self.model_fields_set & {*ClientPrivacy.model_fields}:
            raise ValueError(f"{min(given)}: expected epsilon too, the budget; add it, or leave this out")
        return self


class ServerPrivacy(_Promise):
    """A server's promise about what its models tell of a client: its budget, and what hides a client in a round.

    clip: the largest norm of a client's update; or the arguments of `AdaptiveClip`. clients: by how many the sum of a
    round's updates is divided; None: by how many are expected.
    """

    epsilon: float = Field(gt=0)
    clip: float | dict[str, Any] = 1.0
    clients: int | None = Field(None, ge=1)

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
