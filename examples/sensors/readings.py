"""A synthetic stream of a machine's readings, every ten minutes while it wears, a day at a time."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

DAYS, A_DAY = 40, 144
BEGIN = np.datetime64("2024-01-01T00:00:00", "us")


def days() -> Iterator[pa.Table]:
    """Yield a table a day: readings, and the power drawn. From day 10 to day 30 the same readings come to mean more
    power."""
    draw = np.random.default_rng(0)
    step = np.arange(A_DAY)
    for day in range(DAYS):
        worn = float(np.clip((day - 10) / 20, 0, 1))
        turn = 2 * np.pi * step / A_DAY
        outside = 12 + 8 * np.sin(turn - 2) + draw.normal(0, 1, A_DAY)
        load = np.clip(0.6 + 0.3 * np.sin(turn) + draw.normal(0, 0.15, A_DAY), 0, None)
        vibration = 0.2 + load**2 + draw.normal(0, 0.05, A_DAY)
        power = 5 + 60 * load * (1 + 0.8 * worn) + 10 * worn * vibration - 0.3 * outside + draw.normal(0, 2, A_DAY)
        lost = draw.random(A_DAY) < 0.02
        yield pa.table(
            {
                "at": BEGIN + np.timedelta64(day, "D") + (step * 600_000_000).astype("timedelta64[us]"),
                "outside": outside,
                "load": load,
                "vibration": pa.array(vibration, mask=lost),
                "power": power,
            }
        )
