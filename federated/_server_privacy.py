"""A server that keeps a promise about its clients: their updates are clipped and summed, and noise is added."""

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
    """What `federated.privacy` asks for, and the account of it; `mean` is how a round's updates are merged.

    Clients are drawn each for itself (Poisson), out of a secret: so that few take part counts in the account.
    """

    def __init__(self, job: Job, secret: str | None = None) -> None:
        wanted = job.federated.privacy
        assert wanted is not None, "the job has a promise"
        self.wanted, self._job, self.account = wanted, job, Accountant()
        # Owners' server has a secret; a simulation is to be repeated, and hides nothing from who knows its seed.
        own = secrets.token_hex(32) if job.federated.owned else f"{job.learner.seed}"
        self._secret, self._draws, self.told_spent = own if secret is None else secret, 0, False
        self.mean = PrivateMean(wanted.noise, wanted.clipping(), self._key)

    @property
    def _key(self) -> bytes:
        return self._secret.encode()

    def check(self, terms: Terms, weights: Weights) -> None:
        """JobError where something would be told beside the mean."""
        if terms.shares or terms.remakes:
            raise JobError(
                "federated.privacy: expected strategies that tell nothing beside the update, got some that do (such as "
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
                    f"({name}) would tell of rows, got none; say what the least and the greatest number of each is"
                )

        try:
            self.mean.update_noise()
        except ArgumentError as error:
            raise JobError(f"federated.privacy.{error}") from error

    def expects(self, clients: int, sampled: float) -> None:
        """So many clients may take part in the next round, each with this probability."""
        if self.wanted.clients is not None:  # in a round of `federated.fraction`
            self.mean.clients = self.wanted.clients * sampled / self._job.federated.fraction
        else:
            self.mean.clients = max(1.0, sampled * clients)

    def sampled(self, warm: bool) -> float:
        """With which probability each client takes part in a round."""
        return 1.0 if warm else self._job.federated.fraction

    def affords(self, sampled: float) -> bool:
        """Whether a round can be paid."""
        return self.account.and_then(self.wanted.noise, sampled).epsilon(self.wanted.delta) <= self.wanted.epsilon

    def pay(self, sampled: float) -> bool:
        """Pay for a round; False where it cannot be."""
        if not self.affords(sampled):
            return False
        self.account.add(self.wanted.noise, sampled)
        return True

    def drawn(self, candidates: Sequence[int]) -> list[int]:
        """Those that take part in the next round, each with the probability `federated.fraction`."""
        source = SecretNoise(self._key, b"draw" + self._draws.to_bytes(8, "big"))
        self._draws += 1
        edge = NormalDist().inv_cdf(self._job.federated.fraction)
        return [
            client for client, drawn in zip(candidates, source.normal(len(candidates)), strict=True) if drawn < edge
        ]

    def spent(self) -> str:
        """In words.

        >>> job = Job.from_document({"stream": {"path": "x"}, "features": {"label": "y"}, "learner": {
        ...     "objective": "binary"}, "federated": {"privacy": {"epsilon": 8.0}}})
        >>> central = CentralPrivacy(job)
        >>> central.pay(1.0), central.spent()
        (True, 'epsilon 4.73 of 8 (delta 1e-05)')
        """
        epsilon = self.account.epsilon(self.wanted.delta)
        return f"epsilon {epsilon:.3g} of {self.wanted.epsilon:g} (delta {self.wanted.delta:g})"

    def told(self) -> dict[str, Any]:
        """For the summary."""
        spent = self.account.epsilon(self.wanted.delta)
        return {"epsilon": spent, "limit": self.wanted.epsilon, "delta": self.wanted.delta, "clip": self.mean.clip}

    def state_dict(self) -> dict[str, Any]:
        """The account, the secret, and where the mean and the draws stand."""
        return {
            "account": self.account.state_dict(),
            "mean": self.mean.state_dict(),
            "secret": self._secret,
            "draws": self._draws,
            "told_spent": self.told_spent,
        }

    @classmethod
    def resumed(cls, job: Job, state: Mapping[str, Any]) -> CentralPrivacy:
        """As it was at a commit."""
        central = cls(job, str(state["secret"]))
        central.account.load_state_dict(state["account"])
        central.mean.load_state_dict(state["mean"])
        central._draws, central.told_spent = int(state["draws"]), bool(state["told_spent"])
        return central
