"""The report names the model that was run."""

from __future__ import annotations

import pytest

from incr_core.report._what_was_run import _model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"hidden": [8]}, "MLP, hidden layers"),
        ({"kind": "auto"}, "auto: MLP"),
        ({"kind": "factorisation", "embedding": 4}, "factorisation, 4 factors of each id"),
        ({"kind": "two_towers", "hidden": []}, "two towers"),
        ({"factory": "own:net"}, "own:net"),
    ],
)
def test_each_kind_of_model_has_its_name(model: dict[str, object], words: str) -> None:
    assert _model(model).startswith(words)
