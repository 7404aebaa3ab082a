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

from fedmm_secure.storage.files import Arrays, Store
from fedmm_secure.storage.provenance import code_version
from privacy.accounting.lines import canonical_json
from privacy.files import open_private, private_folder, write_json


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
