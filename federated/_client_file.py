"""CLIENT.toml, the file of an owner: the place of its data, the names of its columns there, and its permissions."""

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
    """The place of the rows, and their format."""

    path: str = Field(min_length=1)
    format: Literal["parquet", "arrow", "csv", "jsonl"] | None = None
    time_zone: TimeZone | None = None
    settle: Settle | None = None


class _Allow(_Section):
    """Permissions of a job beyond the parts of incr.

    Attributes:
        modules: Modules whose code a job may name.
        ids: Columns, by their names in a job, whose ids may be sent to the server, as hashes with counts.
        encoders: Pretrained transformers of texts: the name in a job -> the folder on this machine.
        disk: Gigabytes that the client may store here.
    """

    modules: list[str] = []
    ids: list[str] = []
    encoders: dict[str, str] = {}
    disk: float = Field(10.0, gt=0)


class _Privacy(ClientPrivacy):
    """Limits on the data that a server receives.

    Attributes:
        min_rows: The server receives nothing about fewer rows. With an epsilon, noise hides the rest.
    """

    min_rows: int = Field(10, ge=1)


class ClientFile(_Section):
    """The file of a client, as its owner has written it.

    Attributes:
        name: The owner's name at the server.
        state: Folder of the client's stored data, relative to the file unless absolute.
        data: The place and format of the rows.
        columns: Name of a column in a job -> its name in the data. No job can read other columns.
        allow: Permissions of jobs.
        privacy: Limits on the data that a server receives.

    Example:
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
        """Read a client's file.

        Raises:
            JobError: The file cannot be read, or a key is invalid.
        """
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
        """Validate the content of a client's file. Paths are relative to `root`.

        Raises:
            JobError: A key is invalid.
        """
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
        """The place of the data: an address, or an absolute path."""
        path = self.data.path
        return path if "://" in path else str(Path(self._root, Path(path).expanduser()))

    @property
    def folder(self) -> Path:
        """Folder of the client's stored data."""
        return Path(self._root, Path(self.state or f"{self.name}-state").expanduser())

    @property
    def disk(self) -> int:
        """Maximum number of bytes that the client may store."""
        return int(self.allow.disk * 1e9)
