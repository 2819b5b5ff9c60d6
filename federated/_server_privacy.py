"""Differential privacy at the server: updates of clients are clipped and summed, and noise is added."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from federated._cohort import Terms
from incr_core.errors import ArgumentError, JobError
from incr_core.job import Job
from incr_core.privacy import Accountant, SecretNoise
from incr_core.rounds import PrivateMean
from incr_core.update import Weights

__all__ = ["CentralPrivacy"]


class CentralPrivacy:
    """The mechanism of `federated.privacy` and its account. `mean` merges the updates of a round.

    Clients are drawn independently (Poisson) from a secret, so the account includes the gain of sampling.
    """

    def __init__(self, job: Job, secret: str | None = None) -> None:
        wanted = job.federated.privacy
        assert wanted is not None, "the job has a promise"
        self.wanted, self._job, self.account = wanted, job, Accountant()
        # A server of owners has a secret. A simulation is reproducible, and hides nothing from a reader of its seed.
        own = secrets.token_hex(32) if job.federated.owned else f"{job.learner.seed}"
        self._secret, self._draws, self.told_spent = own if secret is None else secret, 0, False
        self.mean = PrivateMean(wanted.noise, wanted.clipping(), self._key)

    @property
    def _key(self) -> bytes:
        return self._secret.encode()

    def check(self, terms: Terms, weights: Weights) -> None:
        """Check that clients send nothing beside the update.

        Raises:
            JobError: Strategies, running statistics or sums for normalisation would be sent.
        """
        if terms.shares or terms.remakes:
            raise JobError(
                "federated.privacy: expected strategies that send nothing beside the update, got some that do (such as "
                "scaffold and ewc); leave them out"
            )
        for name, rule in terms.rules.items():
            if rule == "average":
                raise JobError(
                    f"federated.privacy: expected a model without running statistics, got {name}, which no noise "
                    "hides; use LayerNorm or GroupNorm instead of BatchNorm"
                )
            if rule == "sum" and weights[name].numel() and not self._job.features.ranges:
                raise JobError(
                    "federated.privacy: expected features.ranges, since the sums that inputs are normalised by "
                    f"({name}) would reveal rows, got none; say what the least and the greatest number of each is"
                )

        try:
            self.mean.update_noise()
        except ArgumentError as error:
            raise JobError(f"federated.privacy.{error}") from error

    def expects(self, clients: int, sampled: float) -> None:
        """Set the number of clients that may take part in the next round, each with this probability."""
        if self.wanted.clients is not None:  # in a round of `federated.fraction`
            self.mean.clients = self.wanted.clients * sampled / self._job.federated.fraction
        else:
            self.mean.clients = max(1.0, sampled * clients)

    def sampled(self, warm: bool) -> float:
        """Return the probability with which each client takes part in a round."""
        return 1.0 if warm else self._job.federated.fraction

    def affords(self, sampled: float) -> bool:
        """Return whether the budget pays for a round."""
        return self.account.and_then(self.wanted.noise, sampled).epsilon(self.wanted.delta) <= self.wanted.epsilon

    def pay(self, sampled: float) -> bool:
        """Pay for a round. False if the budget is too small."""
        if not self.affords(sampled):
            return False
        self.account.add(self.wanted.noise, sampled)
        return True

    def drawn(self, candidates: Sequence[int]) -> list[int]:
        """Return the clients of the next round. Each takes part with the probability `federated.fraction`."""
        source = SecretNoise(self._key, b"draw" + self._draws.to_bytes(8, "big"))
        self._draws += 1
        edge = NormalDist().inv_cdf(self._job.federated.fraction)
        return [
            client for client, drawn in zip(candidates, source.normal(len(candidates)), strict=True) if drawn < edge
        ]

    def spent(self) -> str:
        """Return the spent budget in words.

        Example:
            >>> job = Job.from_document({"stream": {"path": "x"}, "features": {"label": "y"}, "learner": {
            ...     "objective": "binary"}, "federated": {"privacy": {"epsilon": 8.0}}})
            >>> central = CentralPrivacy(job)
            >>> central.pay(1.0), central.spent()
            (True, 'epsilon 4.73 of 8 (delta 1e-05)')
        """
        epsilon = self.account.epsilon(self.wanted.delta)
        return f"epsilon {epsilon:.3g} of {self.wanted.epsilon:g} (delta {self.wanted.delta:g})"

    def told(self) -> dict[str, Any]:
        """Return the entries of the summary."""
        spent = self.account.epsilon(self.wanted.delta)
        return {"epsilon": spent, "limit": self.wanted.epsilon, "delta": self.wanted.delta, "clip": self.mean.clip}

    def state_dict(self) -> dict[str, Any]:
        """Return the account, the secret, and the state of the mean and the draws."""
        return {
            "account": self.account.state_dict(),
            "mean": self.mean.state_dict(),
            "secret": self._secret,
            "draws": self._draws,
            "told_spent": self.told_spent,
        }

    @classmethod
    def resumed(cls, job: Job, state: Mapping[str, Any]) -> CentralPrivacy:
        """Return the mechanism as it was at a commit."""
        central = cls(job, str(state["secret"]))
        central.account.load_state_dict(state["account"])
        central.mean.load_state_dict(state["mean"])
        central._draws, central.told_spent = int(state["draws"]), bool(state["told_spent"])
        return central
