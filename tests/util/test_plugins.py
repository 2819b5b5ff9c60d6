"""What a job names as "module:name": found beside the job file, or refused with what was found instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from incr_core._util import load_callable
from incr_core.data.sources import open_source
from incr_core.errors import JobError, StreamError


def test_a_module_beside_the_job_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "beside_the_job.py").write_text("def seven():\n    return 7\n")
    assert load_callable("beside_the_job:seven", "model.factory", str(tmp_path))() == 7


def test_a_module_that_is_there_but_fails_is_told_from_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    with pytest.raises(JobError, match=r"Python module needs_more, got one that .*No module named 'no_such_package'"):
        load_callable("needs_more:model", "model.factory")
    with pytest.raises(JobError, match=r"Python module no_such_package.inner, got none"):
        load_callable("no_such_package.inner:model", "model.factory")


def test_what_cannot_be_called_is_refused_wherever_it_is_named() -> None:
    with pytest.raises(JobError, match=r'strategy.name "math:pi": expected a function, got float'):
        load_callable("math:pi", "strategy.name")
    with pytest.raises(StreamError, match=r'stream.path "math:pi": expected a function, got float'):
        open_source("math:pi")
