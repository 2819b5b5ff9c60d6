"""Addresses of object stores (s3://bucket/runs/people), their file systems, and their errors."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from incr_core.errors import ArgumentError, IncrError, StoreError

__all__ = ["address_in", "file_system", "is_address", "store_errors"]

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs", "az": "abfs"}
"""The extra of this package that installs the client for each scheme."""

PATIENCE = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2, "mode": "standard"}}
"""Settings of the S3 client: an unreachable store is reported within half a minute instead of a quarter of an hour."""

_SCHEME = re.compile(r"([A-Za-z][\w+.-]+):/+")


def is_address(place: object) -> bool:
    """Whether a place is an address rather than a path. pathlib reduces two slashes to one; that is an address too.

    Example:
        >>> is_address("s3://bucket/run"), is_address(Path("s3://bucket/run")), is_address("runs/people")
        (True, True, False)
        >>> is_address("package.module:function")
        False
    """
    return isinstance(place, str | Path) and _SCHEME.match(str(place)) is not None


def address_in(place: str | Path) -> str:
    """Normalise an address: two slashes after the scheme, and none at the end.

    Example:
        >>> address_in(Path("s3://bucket/run/"))
        's3://bucket/run'
    """
    return _SCHEME.sub(lambda found: f"{found[1].lower()}://", str(place), count=1).rstrip("/")


def file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it, without cached listings.

    Keys, endpoints and other settings come from fsspec's usual places: the environment (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, FSSPEC_S3_..., GOOGLE_APPLICATION_CREDENTIALS) and ~/.config/fsspec.

    Raises:
        ArgumentError: The package for this scheme is not installed, or the scheme is unknown.

    Example:
        >>> system, path = file_system("memory://runs/people")
        >>> system.protocol, path
        ('memory', '/runs/people')
    """
    import fsspec  # slow to import, and only needed for addresses

    scheme = address.partition(":")[0]
    options = {"config_kwargs": PATIENCE} if EXTRAS.get(scheme) == "s3" else {}
    try:
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False, **options)
    except ImportError as missing:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'incr[{extra}]'" if extra else str(missing)
        raise ArgumentError(
            f"{address}: addresses of {scheme}:// need a package that is not installed; {remedy}"
        ) from None
    except ValueError as error:
        known = "s3://, gs://, abfs://"
        raise ArgumentError(f"{address}: expected a path or an address ({known}, ...), got another: {error}") from None
    return system, path


@contextlib.contextmanager
def store_errors(address: str, doing: str) -> Iterator[None]:
    """Convert errors of a store or its client to a StoreError about `address`, except FileNotFoundError.

    Example:
        >>> with store_errors("s3://bucket/run", "read"):
        ...     raise PermissionError("Access Denied")
        Traceback (most recent call last):
        ...
        incr_core.errors.StoreError: s3://bucket/run: cannot be read: the store refuses (Access Denied); commits ...
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, IncrError):
        raise
    except Exception as error:  # clients raise their own exceptions, without a common base class
        remedy = "run the same command again once the store responds; it continues from the last commit"
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError) or "credentials" in reason.lower():
            what = f"the store refuses ({reason})"
            remedy = "check the credentials (AWS_ACCESS_KEY_ID and the like) and what they allow here"
        elif isinstance(error, OSError) and error.errno == errno.EBUSY:
            what = f"the store is too busy, or the object was changed meanwhile ({reason})"
        else:
            what = f"the store does not answer as expected ({reason})"
        raise StoreError(f"{address}: cannot be {doing}: {what}; commits are intact; {remedy}") from error
