"""Support tickets of three kinds as lists of token ids; drawn, a day at a time."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

DAYS, ROWS, LENGTH, VOCABULARY = 12, 150, 16, 400
KINDS = ["billing", "delivery", "fault"]


def days() -> Iterator[pa.Table]:
    """A table a day. Each kind has words of its own, of which more come into use as days pass; 0 pads."""
    draw = np.random.default_rng(0)
    for day in range(DAYS):
        known = 30 + 5 * day  # of a kind's hundred words
        kind = draw.integers(0, len(KINDS), ROWS)
        tokens = draw.integers(301, VOCABULARY, (ROWS, LENGTH))  # words that tell nothing
        own = draw.random((ROWS, LENGTH)) < 0.3
        tokens[own] = (1 + 100 * kind[:, None] + draw.integers(0, known, (ROWS, LENGTH)))[own]
        length = draw.integers(6, LENGTH + 1, ROWS)
        tokens[np.arange(LENGTH) >= length[:, None]] = 0
        yield pa.table(
            {
                "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel().astype(float)), LENGTH),
                "kind": [KINDS[k] for k in kind],
            }
        )
