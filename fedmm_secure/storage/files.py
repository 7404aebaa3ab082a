"""Files that survive a kill: atomic writes, and results that a resumed run reads instead of computing."""

from __future__ import annotations

import io
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fedmm_secure.foreign.formats import parse_arrays
from privacy.files import (
    PRIVATE_MODE,
    PUBLIC_MODE,
    json_bytes,
    private_folder,
    sync_directory,
    write_atomic,
    write_json,
)
from privacy.foreign import parse_json, read_bytes

__all__ = [
    "PRIVATE_MODE",
    "PUBLIC_MODE",
    "Arrays",
    "Store",
    "json_bytes",
    "new_directory",
    "remove_unfinished",
    "torch_bytes",
    "write_atomic",
    "write_json",
]
Arrays = dict[str, NDArray[Any]]


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed ``write_atomic`` left below a directory that this process alone writes to."""
    for path in directory.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A folder to write into that is ``directory`` once all of it is there; until then, or else, nothing is.

    Raises:
        OSError: it cannot be made; also where there is something of that name that is no empty directory.
    """
    directory = directory.resolve()
    private_folder(directory.parent)
    unfinished = directory.with_name(f".{directory.name[:100]}.{secrets.token_hex(8)}.tmp")
    unfinished.mkdir(mode=0o700)
    try:
        yield unfinished
        unfinished.replace(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_directory(directory.parent)


def torch_bytes(value: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Store:
    """Results by name, computed once. No pickles: a run directory may come from somebody else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """File of named arrays."""
        return self.directory / f"{name}.npz"

    def arrays(self, name: str, compute: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
        """Named arrays, from ``<name>.npz`` if it is there."""
        path = self.path(name)
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **compute())  # type: ignore[arg-type]
            write_atomic(path, buffer.getvalue())
        return parse_arrays(read_bytes(path, below=self.directory), path)

    def json(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value, from ``<name>.json`` if it is there."""
        path = self.directory / f"{name}.json"
        if not path.exists():
            write_json(path, compute())
        return parse_json(read_bytes(path, below=self.directory), path)


def write_parquet(path: Path, frame: pd.DataFrame, compression: Literal["snappy", "zstd"] = "snappy") -> None:
    """Write a table so that the file is either absent, old, or complete."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression=compression)
    write_atomic(path, buffer.getvalue())
