"""Raw rows, and functions of raw tables that jobs in tests name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["centred", "fewer", "people", "with_bmi"]


def people(rows: int = 300) -> pa.Table:
    """Raw rows, of which `with_bmi` derives the features."""
    draw = np.random.default_rng(0)
    kg, cm = draw.uniform(50.0, 110.0, rows), draw.integers(150, 200, rows)
    at = pa.array(np.arange(rows) * 60_000_000, pa.timestamp("us"))
    who, fat = [f"p{row % 40}" for row in range(rows)], (kg / (cm / 100) ** 2 > 26).astype(int)
    return pa.table({"when": at, "kg": kg, "cm": cm, "who": who, "fat": fat})


def with_bmi(table: pa.Table) -> pa.Table:
    """Derive `bmi` and `city`, and rename `when` to `at`."""
    metres = pc.divide(pc.cast(table["cm"], "double"), 100.0)
    found = table.append_column("bmi", pc.divide(table["kg"], pc.multiply(metres, metres)))
    found = found.append_column("city", pc.utf8_slice_codeunits(table["who"], 1, 2))
    return found.rename_columns(["at" if name == "when" else name for name in found.column_names])


def fewer(table: pa.Table) -> pa.Table:
    """Leave a row out, which is refused."""
    return table.slice(1)


def centred(table: pa.Table) -> pa.Table:
    """Let a row depend on the others, which is refused."""
    return table.append_column("c", pc.subtract(table["kg"], pc.mean(table["kg"])))
