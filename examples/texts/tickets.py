"""A synthetic stream of support tickets of three kinds, as lists of token ids, a day at a time."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

DAYS, ROWS, LENGTH, VOCABULARY = 12, 150, 16, 400
KINDS = ["billing", "delivery", "fault"]


def days() -> Iterator[pa.Table]:
    """Yield a table a day. Each kind has its own words, of which more are used as days pass; 0 pads."""
    draw = np.random.default_rng(0)
    for day in range(DAYS):
        known = 30 + 5 * day  # of a kind's hundred words
        kind = draw.integers(0, len(KINDS), ROWS)
        tokens = draw.integers(301, VOCABULARY, (ROWS, LENGTH))  # words that say nothing about the kind
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
