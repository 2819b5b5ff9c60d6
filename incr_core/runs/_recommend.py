"""Recommendation of items: score the whole catalogue for a user and return the best items not seen yet."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from incr_core.data.encoding import id_key
from incr_core.data.sources import open_source, seconds
from incr_core.data.timeline import columns_asked
from incr_core.errors import ArgumentError, JobError, StreamError
from incr_core.job import Job
from incr_core.models import TwoTower

if TYPE_CHECKING:
    from incr_core.runs._version import Version

__all__ = ["recommended", "user_and_item"]

AT_ONCE = 8192
"""Items that are scored at one time."""


def recommended(
    version: Version, user: object, k: int = 10, *, with_seen: bool = False, rows: str | Path | None = None
) -> tuple[pa.Table, bool]:
    """Return the k items with the highest scores for a user, best first, and whether the user occurs in a row.

    The items, their columns and the items that the user has seen are read from the rows of the stream, or from `rows`.
    The columns of an item are those of its latest row, and the columns of the user those of the user's latest row. An
    unknown user is scored with the table row that all unknown ids share. Items without a row in the table are left out.

    Args:
        version: a version of a run whose job names one id as the item (`features.item`) and one more as the user.
        user: the user's id.
        k: number of items.
        with_seen: whether to include items that occur in a row of the user.
        rows: a file or a folder. Default: the current files of the run's stream.

    Returns:
        A table of the item's column and of `score` (ranking), `value` (regression) or `probability` (binary), and
        whether the user occurs in a row.

    Raises:
        ArgumentError: k is below 1.
        JobError: the job does not name the ids of user and item.
        StreamError: there are no rows with items.
    """
    job = version.job
    if k < 1:
        raise ArgumentError(f"k: expected at least 1 item, got {k}")
    who, item = user_and_item(job)
    of_item = [*job.features.item]
    asked = columns_asked(job.encoder, job.rates(), job.stream.predict_at, labelled=False)
    catalogue, seen, latest = _read(job, rows, asked, who, item, user)
    catalogue = catalogue.filter(_known(version, item, catalogue[item]))
    if not with_seen:
        catalogue = catalogue.filter(pc.invert(pc.is_in(catalogue[item], value_set=seen)))
    if not len(catalogue):
        what = [*version.answers.columns(torch.empty(0), 0)][-1]
        return pa.table({item: catalogue[item], what: pa.array([], pa.float64())}), latest is not None
    count, columns = len(catalogue), {}
    for name in asked:
        if name in of_item:
            columns[name] = catalogue[name]
        elif name == who:
            columns[name] = pa.repeat(pa.scalar(str(user)), count)
        else:
            value = None if latest is None else latest[name][0].as_py()
            columns[name] = pa.array([value] * count, catalogue.schema.field(name).type)
    model = version.learner.model
    with model.without_standing() if isinstance(model, TwoTower) else nullcontext():
        found = version.answer(pa.table(columns), "the items", prepared=True)[0]
    what = found.column_names[-1]
    scores = found[what].combine_chunks()
    best = pc.select_k_unstable(
        pa.table({"score": scores, "place": np.arange(count)}), k, [("score", "descending"), ("place", "ascending")]
    )
    return pa.table({item: catalogue[item].take(best), what: scores.take(best)}), latest is not None


def user_and_item(job: Job) -> tuple[str, str]:
    """The columns of the user's id and of the item's id. Raises JobError if the job does not name both."""
    features = job.features
    items = [name for name in features.ids if name in features.item]
    others = [name for name in features.ids if name not in features.item]
    if len(items) != 1 or len(others) != 1:
        got = f"features.ids = {features.ids} and features.item = {features.item}"
        raise JobError(
            f"recommend: expected a job that names one id as the item and one as the user, got {got}; name both in "
            "features.ids and the item in features.item, and run it"
        )
    return others[0], items[0]


def _read(
    job: Job, rows: str | Path | None, asked: list[str], who: str, item: str, user: object
) -> tuple[pa.Table, pa.Array, pa.Table | None]:
    """The latest row of each item, the items in the user's rows, and the user's latest row, if there is one."""
    source = open_source(
        job.source() if rows is None else str(rows),
        job.stream.file_format,
        tolerant=job.features.tolerates_bad_files,
        settle=seconds(job.stream.settle),
        prepare=job.prepare(),
    )
    mine = id_key(job.encoder.id_hashes[who], user)
    catalogue: pa.Table | None = None
    latest: pa.Table | None = None
    seen = []
    for fragment in source.fragments():
        table = _plain(fragment.load(asked))
        keys = job.encoder.keys({name: table[name] for name in job.encoder.id_columns}, fragment.name).numpy()
        own = np.flatnonzero(keys[:, job.encoder.id_columns.index(who)] == mine)
        if len(own) and mine:
            seen.append(table[item].take(own).combine_chunks())
            latest = table.slice(int(own[-1]), 1)
        catalogue = _latest(table if catalogue is None else pa.concat_tables([catalogue, table]), item)
    if catalogue is None or not len(catalogue):
        raise StreamError(
            f"recommend: expected rows with items, got none in {rows or job.stream.path}; name some (--rows)"
        )
    return catalogue, pa.concat_arrays(seen) if seen else pa.array([], catalogue[item].type), latest


def _latest(table: pa.Table, item: str) -> pa.Table:
    """The last row of each item, in the order of the items' first rows."""
    codes = table[item].combine_chunks().dictionary_encode()
    codes = codes.indices.to_numpy(zero_copy_only=False)
    known = np.flatnonzero(~np.isnan(codes.astype(np.float64)))
    last = np.zeros(int(codes[known].max()) + 1 if len(known) else 0, dtype=np.int64)
    last[codes[known].astype(np.int64)] = known
    return table.take(last)


def _plain(table: pa.Table) -> pa.Table:
    """The table with plain columns in place of dictionaries, which differ between files."""
    columns = {
        name: pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(columns)


def _known(version: Version, item: str, column: pa.ChunkedArray) -> pa.Array:
    """Return whether the model has a row for each item."""
    place = version.job.features.ids.index(item)
    table = list(version.learner.id_tables.values())[place]
    keys = version.job.encoder.keys({item: column}, "the items")[:, 0]
    return pa.array((table.rows_of(keys.to(table.keys.device)) > 0).cpu().numpy())
