"""A synthetic stream of card payments, hour by hour. One in a hundred is fraud."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

HOURS, ROWS = 60, 200
BEGIN = np.datetime64("2024-03-01T00:00:00", "us")


def hours() -> Iterator[pa.Table]:
    """Yield a table an hour. Halfway, fraud changes from large amounts abroad to many small amounts at night."""
    draw = np.random.default_rng(0)
    for hour in range(HOURS):
        fraud = draw.random(ROWS) < 0.01
        moved = hour >= HOURS // 2
        amount = np.exp(draw.normal(3.5, 1.0, ROWS) + fraud * (-1.0 if moved else 1.5))
        abroad = draw.random(ROWS) < np.where(fraud, 0.3 if moved else 0.7, 0.05)
        recent = draw.poisson(np.where(fraud & moved, 8, 1.5))
        clock = np.where(fraud & moved & (draw.random(ROWS) < 0.7), draw.uniform(0, 5, ROWS), draw.uniform(0, 24, ROWS))
        minute = np.sort(draw.uniform(0, 60, ROWS))
        yield pa.table(
            {
                "at": BEGIN + (np.timedelta64(hour, "h") + (minute * 60e6).astype("timedelta64[us]")),
                "amount": amount,
                "payments_last_day": recent.astype(float),
                "local_hour": clock,
                "abroad": np.where(abroad, "yes", "no"),
                "fraud": fraud.astype(np.int64),
            }
        )
