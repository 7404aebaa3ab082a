"""Results that runs share: computed once, found again by everything that they depend on.

What carries noise is never kept here: each run draws its own and answers for it in its own ledger.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.provenance import code_version
from fedmm_secure.storage import Arrays, Store, write_json
from privacy.accounting.lines import canonical_json
from privacy.files import open_private, private_folder


class Cache:
    """A folder of results, each under the hash of its inputs and of the code that computed it.

    It holds private values, like a run directory, and is readable by its owner alone.

    Args:
        directory: the folder; None keeps nothing and computes everything.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory

    def arrays(self, inputs: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]]) -> Arrays:
        """Named arrays, computed unless they were before; who comes second waits for the first.

        Args:
            inputs: everything that the result depends on, as JSON; the code version is added.
            compute: makes the arrays.
        """
        if self.directory is None:
            return dict(compute())
        named = {**inputs, "code": code_version()}
        digest = hashlib.sha256(canonical_json(named)).hexdigest()
        folder = self.directory / digest[:2]
        private_folder(folder)
        store = Store(folder)
        with _locked(folder / f"{digest}.lock"):
            path = store.path(digest)
            if path.exists() and not zipfile.is_zipfile(path):
                path.unlink()  # cut short by a full disk, say: computed again
            if not path.exists():
                write_json(folder / f"{digest}.json", named)
            return store.arrays(digest, compute)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with os.fdopen(open_private(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def market_digest(prepared: PreparedMarket) -> str:
    """Hash of a market's rows, split, pool and candidates."""
    market, split, pool = prepared.market, prepared.split, prepared.pool
    digest = hashlib.sha256(f"{market.name} {market.has_time} {market.calendar}".encode())
    for ids in (market.user_ids, market.item_ids):
        for identifier in ids.tolist():
            text = str(identifier).encode()
            digest.update(len(text).to_bytes(4, "big") + text)
    rows = (market.user, market.item, market.rating, market.time)
    return arrays_digest(
        *rows, split.train, split.valid, split.test, pool.items, pool.weights, start=digest.digest(),
    ) + prepared.valid.sha256() + prepared.test.sha256()  # fmt: skip


def arrays_digest(*arrays: np.ndarray, start: bytes = b"") -> str:
    """Hash of arrays: types, shapes and values."""
    digest = hashlib.sha256(start)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
