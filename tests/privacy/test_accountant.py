"""The account against another's, and against the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from incr_core.privacy import Accountant, least_noise, sampled_gaussian
from incr_core.privacy._accountant import ORDERS

Steps = list[tuple[float, float, int]]

REFERENCE: list[tuple[Steps, float, float]] = [
    ([(1.0, 1.0, 1)], 4.728507, 5.671034),
    ([(1.0, 1.0, 10)], 19.053598, 21.934343),
    ([(0.7, 1.0, 1)], 7.162778, 8.493155),
    ([(4.0, 1.0, 365)], 32.939131, 37.262313),
    ([(1.0, 0.01, 1000)], 2.101367, 2.764673),
    ([(1.1, 0.0427, 1000)], 8.363027, 10.097986),
    ([(0.6, 0.1, 50)], 17.150907, 21.620748),
    ([(2.0, 0.5, 30)], 7.754187, 9.339578),
    ([(8.0, 0.3, 5000)], 15.459128, 17.761713),
    ([(1.0, 1.0, 3), (2.0, 0.1, 200), (1.5, 0.01, 5000)], 10.512062, 12.344909),
]
"""Steps of (noise, sampled, times); and epsilon at delta 1e-5 and 1e-7 by dp-accounting 0.5.1, `rdp.RdpAccountant` with
its own orders, of GaussianDpEvent and PoissonSampledDpEvent. (It leaves out orders at which its series does not
converge, so it may say a little more.)"""


def spent(steps: Steps) -> Accountant:
    account = Accountant()
    for noise, sampled, times in steps:
        account.add(noise, sampled, times)
    return account


@pytest.mark.parametrize(("steps", "at_5", "at_7"), REFERENCE)
def test_epsilon_is_that_of_dp_accounting(steps: Steps, at_5: float, at_7: float) -> None:
    account = spent(steps)
    assert account.epsilon(1e-5) == pytest.approx(at_5, rel=0.01)
    assert account.epsilon(1e-7) == pytest.approx(at_7, rel=0.01)


@pytest.mark.parametrize(("noise", "sampled"), [(0.5, 0.01), (1.0, 0.1), (3.0, 0.7), (20.0, 0.3)])
def test_the_divergence_at_whole_orders_is_the_binomial_sum(noise: float, sampled: float) -> None:
    """Mironov et al. 2019, section 3.3: sum_k C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 s^2))."""
    found = sampled_gaussian(noise, sampled)
    for order in (2, 3, 8, 32):
        terms = [
            math.log(math.comb(order, k))
            + (order - k) * math.log1p(-sampled)
            + k * math.log(sampled)
            + k * (k - 1) / (2 * noise**2)
            for k in range(order + 1)
        ]
        wanted = float(np.logaddexp.reduce(terms)) / (order - 1)
        assert float(found[order == ORDERS][0]) == pytest.approx(wanted, rel=1e-8)


def test_steps_of_many_kinds_add_up_in_any_order_and_are_kept() -> None:
    steps = REFERENCE[-1][0]
    account = spent(steps)
    assert spent(steps[::-1]).epsilon(1e-5) == account.epsilon(1e-5)
    again = Accountant()
    again.load_state_dict(account.state_dict())
    assert again.epsilon(1e-5) == account.epsilon(1e-5)
    assert Accountant().epsilon(1e-5) == 0.0


@pytest.mark.parametrize("times", [1, 7, 300])
def test_the_least_noise_is_just_enough(times: int) -> None:
    noise = least_noise(4.0, 1e-6, times)
    assert spent([(noise, 1.0, times)]).epsilon(1e-6) <= 4.0 < spent([(noise * 0.99, 1.0, times)]).epsilon(1e-6)
