"""The job file: reading, writing, and the objects that Python gives in place of names."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import PrivateAttr, ValidationError, model_validator

from incr_core._util import Catalogue
from incr_core.errors import JobError
from incr_core.job._consistency import check_consistency
from incr_core.job._fault import first_fault
from incr_core.job._fingerprint import fingerprint
from incr_core.job._sections import JobSections
from incr_core.job._settings import with_settings

__all__ = ["OBJECT", "JobFile"]

OBJECT = "object:"
"""Prefix of the names of objects given by Python: "object:__main__.Net"."""


class JobFile(JobSections):
    """A whole job, as written.

    >>> job = JobFile.model_validate({
    ...     "name": "rain",
    ...     "stream": {"path": "rain.parquet", "every": 1000},
    ...     "features": {"label": "rained", "numeric": ["humidity"]},
    ...     "learner": {"objective": "binary"},
    ... })
    >>> job.learner.batch_size
    32
    """

    _objects_given: Mapping[str, Callable[..., Any]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_consistency(self)
        return self

    @classmethod
    def read(cls, path: str | Path, settings: Sequence[str] = ()) -> Self:
        """Read a job file and apply `section.key=value` settings. Raises JobError naming the key."""
        path = Path(path)
        try:
            document = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise JobError(f"{path}: no such job file") from None
        except OSError as error:
            raise JobError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: not valid TOML: {error}") from error
        document.setdefault("name", path.stem if path.stem != "job" else path.resolve().parent.name)
        document.setdefault("root", str(path.resolve().parent))
        return cls.from_document(document, settings, str(path))

    @classmethod
    def from_document(
        cls,
        document: Mapping[str, Any],
        settings: Sequence[str] = (),
        place: str = "job",
        objects: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Self:
        """Validate a job given as nested dictionaries, with settings on top.

        objects: makers of what the document names by "object:NAME", by these names. They stay in memory: of a job that
        is written down, the section `objects` tells what they are, so that the same ones are known again.

        >>> JobFile.from_document({"stream": {"pathh": "x"}})
        Traceback (most recent call last):
        ...
        incr_core.errors.JobError: job: stream.pathh: unknown key; did you mean "path"?
        """
        changed = with_settings(document, settings)
        try:
            job = cls.model_validate(changed)
        except ValidationError as error:
            raise JobError(f"{place}: {first_fault(error, cls, explained=True)}") from None
        job._objects_given = dict(objects or {})
        return job

    def with_settings(self, settings: Sequence[str]) -> Self:
        """The same job with `section.key=value` settings on top. Changed columns are measured again."""
        document = self.document()
        if any(setting.partition("=")[0].strip() in ("features.numeric", "features.label") for setting in settings):
            document["features"].pop("widths", None)
        return type(self).from_document(document, settings, objects=self._objects_given)

    def changed(self, keys: Mapping[str, Any]) -> Self:
        """The same job with other top-level keys, sections whole."""
        return type(self).from_document({**self.document(), **keys}, objects=self._objects_given)

    @property
    def objects_given(self) -> Mapping[str, Callable[..., Any]]:
        """The makers of the objects that the job names by "object:NAME", in memory only."""
        return self._objects_given

    def named(self, name: str, place: str, catalogue: Catalogue[Any]) -> Callable[..., Any]:
        """What the job names: an object that Python gave, or what the catalogue finds.

        place: the key that names it.
        """
        if not name.startswith(OBJECT):
            found: Callable[..., Any] = catalogue.find(name, place, self.root)
            return found
        if name.removeprefix(OBJECT) not in self._objects_given:
            raise JobError(
                f'{place} "{name}": expected an object that only Python has, got none, since the run was begun with '
                "incr_core.open_run; go on with it, and predict, from there with the same objects"
            )
        return self._objects_given[name.removeprefix(OBJECT)]

    def document(self) -> dict[str, Any]:
        """Nested dictionaries, without what is not set."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        if not self.stream.path:
            del found["stream"]["path"]
        return found if self.objects else {key: found[key] for key in found if key != "objects"}

    def toml(self) -> str:
        """The job as a job file."""
        text: str = tomli_w.dumps(self.document())
        return text

    @classmethod
    def as_now(cls, document: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """A job that an earlier incr wrote, with the keys that are new since at their defaults, and its fingerprint.

        So the default of a new key must be what was done without it. The fingerprint is empty where it is no job any
        more.
        """
        try:
            job = cls.from_document(document)
        except JobError:
            return dict(document), ""
        return job.document(), job.fingerprint()

    def fingerprint(self) -> str:
        """Equal for jobs that are the same run."""
        return fingerprint(self, self.document())
