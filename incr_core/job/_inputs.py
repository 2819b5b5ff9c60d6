"""Assignment of columns to the arguments of a model's forward: `[model] inputs`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from incr_core.data.encoding import Encoder
from incr_core.errors import JobError
from incr_core.job._file import JobFile
from incr_core.models import arguments_of

__all__ = ["ByColumn"]

WHOLE = ("_ids", "_mask")
"""Ends of the names of arguments that are whole numbers, in models of the transformers library."""


class ByColumn:
    """Gives a model's forward its columns by name, (B, numbers of the columns), where the job says which is which.

    Arguments whose names end in `_ids` or `_mask` are whole numbers, int64, and 0 where missing. A forward that takes
    an `attention_mask` besides `input_ids`, which no column is named for, is given one: 0 where the id is that of
    padding (the model's `config.pad_token_id`, or 0), and 1 at the first place, so that no row is all padding.

    ids: the arguments that are whole numbers, and their columns.

    Raises JobError where `model.inputs` names no numeric column, or leaves one out.
    """

    def __init__(self, job: JobFile, encoder: Encoder) -> None:
        named = {
            argument: [columns] if isinstance(columns, str) else columns
            for argument, columns in job.model.inputs.items()
        }
        taken = [column for columns in named.values() for column in columns]
        numeric = job.features.numeric
        for column in taken:
            if column not in numeric:
                kind = "categorical" if column in job.features.categorical else "no feature"
                raise JobError(
                    f"model.inputs: expected columns of features.numeric, got {column!r}, which is {kind}; "
                    f"name some of {', '.join(numeric)}"
                )
        left = [
            column
            for column in [
                *numeric,
                *job.features.categorical,
                *job.features.text,
                *job.features.date,
                *job.features.ids,
            ]
            if column not in taken
        ]
        left += ["the rates of features.rate"] * bool(job.features.rate)
        if left:
            raise JobError(
                f"model.inputs: expected every feature to be an argument, {left[0]} is none; name it, "
                "or leave it out of features"
            )
        self.ids = {argument: columns for argument, columns in named.items() if argument.endswith(WHOLE)}
        self._places = {
            argument: [place for column in columns for place in encoder.places[column]]
            for argument, columns in named.items()
        }

    def attach(self, model: nn.Module) -> RemovableHandle:
        """Have every call of the model do so."""
        known, _ = arguments_of(model)
        padding = None
        if "input_ids" in self._places and "attention_mask" in known and "attention_mask" not in self._places:
            padding = getattr(getattr(model, "config", None), "pad_token_id", None) or 0

        def give(model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
            if not given:  # by the names of its arguments already
                return given, named
            inputs = given[0]
            numbers: Tensor = inputs["numeric"] if isinstance(inputs, dict) else inputs
            arguments = {}
            for name, places in self._places.items():
                values = numbers[:, places]
                arguments[name] = values.nan_to_num(0.0).long() if name.endswith(WHOLE) else values
            if padding is not None:
                mask = (arguments["input_ids"] != padding).long()
                mask[:, 0] = 1
                arguments["attention_mask"] = mask
            return (), {**named, **arguments}

        return model.register_forward_pre_hook(give, with_kwargs=True)
