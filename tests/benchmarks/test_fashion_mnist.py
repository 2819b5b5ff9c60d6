"""The pictures that benchmarks learn: read, or refused with what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fashion_mnist import fashion_mnist, read_idx
from incr_core.errors import StreamError


def test_an_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    assert read_idx(tmp_path / "whole").tolist() == [7, 9]


def test_files_that_are_missing_or_cut_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="dataset-fashion-mnist"):
        fashion_mnist(tmp_path)
    (tmp_path / "cut").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))
    with pytest.raises(StreamError, match="expected 17 bytes"):
        read_idx(tmp_path / "cut")
