"""IDX files: the format of MNIST and its kin, and Fashion-MNIST where Debian puts it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from incr_core.batch import Batch
from incr_core.errors import StreamError

__all__ = ["fashion_mnist", "read_idx"]

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path | str) -> npt.NDArray[np.generic]:
    """The array in an IDX file, gzipped if its name ends in .gz.

    The format: two zero bytes, the type, the number of dimensions, each dimension as a big-endian uint32, the values
    (LeCun et al., the MNIST page).

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9])); file.flush()
    ...     read_idx(file.name).tolist()
    [7, 9]
    """
    path = Path(path)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES:
        raise StreamError(f"{path}: expected an IDX file, which starts with two zero bytes and a type, got {raw[:4]!r}")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], ">u4").astype(int)
    dtype = np.dtype(TYPES[raw[2]])
    expected = start + int(shape.prod()) * dtype.itemsize
    if len(raw) != expected:
        raise StreamError(f"{path}: expected {expected} bytes for an array of shape {tuple(shape)}, got {len(raw)}")
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)


def fashion_mnist(folder: Path | str = FASHION_MNIST) -> tuple[Batch, Batch]:
    """Fashion-MNIST, 60,000 rows to learn and 10,000 to test: inputs (N, 784) float in [0, 1], targets (N,) of 0 to 9.

    >>> train, test = fashion_mnist()  # doctest: +SKIP
    """
    folder = Path(folder)

    def part(name: str) -> Batch:
        images, labels = (folder / f"{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        if not images.exists() or not labels.exists():
            raise StreamError(
                f"{images}: not found; install the Debian package dataset-fashion-mnist, or name another folder"
            )
        pixels = read_idx(images).astype(np.float32) / 255.0
        return Batch(
            torch.from_numpy(pixels.reshape(len(pixels), -1)), torch.from_numpy(read_idx(labels).astype(np.int64))
        )

    return part("train"), part("t10k")
