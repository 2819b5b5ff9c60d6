"""Text as hashed words and word pairs. No vocabulary is needed, so all workers agree from the first row on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from incr_core.data.encoding._hashing import ColumnHash
from incr_core.data.encoding._words import texts_of, words_in

__all__ = ["MOST_WORDS", "slots_of", "text_buckets", "words_wanted"]

Hashes = np.ndarray[Any, np.dtype[np.uint64]]


MOST_WORDS = 256
"""Default maximum number of words of a text."""


def words_wanted(table: pa.Table) -> int:
    """Return the number of words that covers 99 of 100 texts in the columns of a table: a power of two, 8 to 256.

    Example:
        >>> words_wanted(pa.table({"title": ["one two three four five six seven eight nine"]}))
        16
    """
    counts = [words_in(texts_of(table[name], name))[1] for name in table.column_names]
    longest = max((float(np.quantile(count, 0.99)) for count in counts if len(count)), default=0.0)
    return next((size for size in (8, 16, 32, 64, 128) if longest <= size), MOST_WORDS)


def slots_of(words: int) -> int:
    """Return the number of slots for a text of at most `words` words: one per word, and one per pair of neighbours.

    Example:
        >>> slots_of(3)
        5
    """
    return 2 * words - 1


def text_buckets(
    column: pa.ChunkedArray, hashed: ColumnHash, buckets: int, words: int, place: str
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the buckets of each row's words, then of its pairs of neighbouring words.

    A word is hashed like a category of its column (blake2b, keyed by the column's name). The hash of a pair mixes those
    of its two words, in order.

    Args:
        column: The column.
        hashed: Hash function of its words.
        buckets: Number of buckets.
        words: Maximum number of words; later ones are ignored.
        place: Names column and file in errors.

    Returns:
        (B, slots) in [1, buckets); 0 is padding.

    Example:
        >>> found = text_buckets(pa.chunked_array([["Very good", "good", None]]), ColumnHash("title"), 1000, 2, "a.csv")
        >>> found.shape, bool(found[0, 1] == found[1, 0]), (found > 0).sum(1)
        ((3, 3), True, array([3, 1, 0]))
    """
    flat, counts = words_in(texts_of(column, place))
    starts = np.cumsum(counts) - counts
    at = np.arange(len(flat)) - np.repeat(starts, counts)
    rows = np.repeat(np.arange(len(counts)), counts)
    if len(counts) and counts.max() > words:
        kept = at < words
        flat, at, rows = pc.filter(flat, pa.array(kept)), at[kept], rows[kept]
        counts = np.minimum(counts, words)
    found = np.zeros((len(counts), slots_of(words)), dtype=np.int32)
    if len(flat):
        distinct, codes = hashed.distinct(flat)
        hashes = distinct.take(codes)
        found[rows, at] = _bucket(hashes, buckets)
        paired = np.flatnonzero(at[1:] > 0)  # places of the first words of pairs
        first = rows[paired]
        found[first, counts[first] + at[paired]] = _bucket(_mixed(hashes[paired], hashes[paired + 1]), buckets)
    return found


def _bucket(hashes: Hashes, buckets: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return (hashes % np.uint64(buckets - 1)).astype(np.int32) + np.int32(1)


def _mixed(first: Hashes, second: Hashes) -> Hashes:
    """Return a hash of two hashes in order: the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = first * np.uint64(0x9E3779B97F4A7C15) + second
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
