"""The base of all sections of a job file."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Named", "Section"]


class Section(BaseModel):
    """A table of the job file. Unknown keys are refused.

    The text below each field is its description: `incr explain` and docs/job.md show it (`tools/job_reference.py`).

    engines: those on which the section means something.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    engines: ClassVar[tuple[str, ...]] = ("local", "cluster", "federated")


class Named(BaseModel):
    """A table that names a part and gives its arguments beside the name."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    name: str
    """The part, by name: one of ours, an entry point, or `"module:attribute"`. All other keys are its arguments."""

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})
