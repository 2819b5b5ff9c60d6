"""An owner's own file: where its data lies, what its columns are called there, and what it allows."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from federated._owner_records import NAMED, is_name
from incr_core.errors import JobError
from incr_core.job import ClientPrivacy, Settle, TimeZone, first_fault

__all__ = ["ClientFile"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Data(_Section):
    """Where the rows lie, and how they are to be read."""

    path: str = Field(min_length=1)
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    time_zone: TimeZone | None = None
    settle: Settle | None = None


class _Allow(_Section):
    """What a job may use besides what incr brings along; disk: gigabytes that may be kept here.

    ids: columns, as a job calls them, whose ids may be told, as hashes, with how often each occurs.
    encoders: pretrained transformers of texts, by the name that a job has for each: its folder on this machine.
    """

    modules: list[str] = []
    ids: list[str] = []
    encoders: dict[str, str] = {}
    disk: float = Field(10.0, gt=0)


class _Privacy(ClientPrivacy):
    """What a server may hear; min_rows: nothing that is over fewer rows. With an epsilon, the rest is hidden too."""

    min_rows: int = Field(10, ge=1)


class ClientFile(_Section):
    """A client's file, as its owner has written it.

    name: what the server knows the owner by. state: the folder of all that is kept here, beside the file unless
    absolute. columns: what a job calls a column -> what it is called in the data; columns that are not among these are
    not there for any job.

    >>> file = ClientFile.from_document({
    ...     "name": "north", "data": {"path": "visits.csv"}, "columns": {"age": "patient_age", "ill": "ill"}
    ... }, root="/srv/north")
    >>> file.path, str(file.folder), file.columns["age"]
    ('/srv/north/visits.csv', '/srv/north/north-state', 'patient_age')
    """

    name: str
    state: str | None = None
    data: _Data
    columns: dict[str, str] = Field(min_length=1)
    allow: _Allow = _Allow()
    privacy: _Privacy = _Privacy()

    _root: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("name")
    @classmethod
    def _can_be_said(cls, value: str) -> str:
        if not is_name(value):
            raise ValueError(f"expected {NAMED}, got {value[:100]!r}")
        return value

    @field_validator("columns", mode="before")
    @classmethod
    def _names_may_be_listed(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        own = list(self.columns.values())
        if twice := sorted({name for name in own if own.count(name) > 1}):
            raise ValueError(f"columns: expected every column of the data once, got {twice[0]!r} twice")
        return self

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a client's file. Raises JobError naming the key."""
        path = Path(path).expanduser().absolute()
        try:
            document = tomllib.loads(path.read_text())
        except OSError as error:
            raise JobError(f"{path}: expected a client's file, got: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: not valid TOML: {error}") from error
        return cls.from_document({"name": path.stem, **document}, path.parent, str(path))

    @classmethod
    def from_document(cls, document: dict[str, Any], root: str | Path, place: str = "client") -> Self:
        """Validate what a file says; paths are relative to `root`. Raises JobError."""
        try:
            found = cls.model_validate(document)
        except ValidationError as error:
            raise JobError(f"{place}: {first_fault(error, cls)}") from None
        found._root = Path(root)
        return found

    @property
    def root(self) -> Path:
        """The folder of the file."""
        return self._root

    @property
    def path(self) -> str:
        """Where the data lies: an address, or a path from the root of this machine."""
        path = self.data.path
        return path if "://" in path else str(Path(self._root, Path(path).expanduser()))

    @property
    def folder(self) -> Path:
        """The folder of all that is kept here."""
        return Path(self._root, Path(self.state or f"{self.name}-state").expanduser())

    @property
    def disk(self) -> int:
        """How many bytes may be kept here."""
        return int(self.allow.disk * 1e9)
