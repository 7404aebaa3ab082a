"""One market's part of a finished run, as the run was closed: the one way to use what a run left.

Whoever scores with a run, starts from it or attacks it reads each file here, against the ledger's last line. A file
that was changed since says nothing of the run. Whether the ledger itself is whole is what ``fedmm verify`` finds out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.closing import transcript_digest
from fedmm_secure.federation.private_record import committed, read_salt
from fedmm_secure.federation.transcript import PUBLICATION, Record, read_index, read_record
from fedmm_secure.foreign.formats import parse_arrays, unpickle_tensors
from fedmm_secure.storage.files import Arrays
from fedmm_secure.storage.layout import CONFIG_FILE, RunDirectory
from privacy.accounting.ledger import read_ledger
from privacy.foreign import ForeignFileError, read_bytes


class ClosedRun:
    """What a finished run left of one market.

    Args:
        directory: of the run.
        market: the market.

    Raises:
        LedgerError: the market's ledger cannot be read.
        RunDirectoryError: the run has not finished, or its configuration is not the one that it was closed with.
    """

    def __init__(self, directory: Path, market: str) -> None:
        self.directory, self.market = directory, market
        self._layout = RunDirectory(directory)
        ledger = self._layout.ledger(market)
        if not ledger.is_file():
            raise RunDirectoryError(f"{ledger}: is not there; has market {market} finished (fedmm run --resume)?")
        content = read_ledger(ledger)
        if content.closing is None:
            raise RunDirectoryError(f"{ledger}: is still open; the run has not finished (fedmm run --resume)")
        self._closing, self._opening = content.closing, content.opening
        self.bytes(directory / CONFIG_FILE)

    def bytes(self, path: Path) -> bytes:
        """A file of the run, published or the market's own.

        Raises:
            RunDirectoryError: it is not there, or not the one that the ledger's last line names.
        """
        name = path.relative_to(self.directory).as_posix()
        try:
            data = read_bytes(path, below=self.directory)
        except ForeignFileError as error:
            if path.is_file():
                raise
            kept = self._named("private", name) is not None
            why = "it is private, and only the market's own run directory holds it" if kept else "the run left it"
            raise RunDirectoryError(f"{path}: is not there; {why}") from error
        shown, kept_as = self._named("files", name), self._named("private", name)
        if shown is not None:
            found: str | None = hashlib.sha256(data).hexdigest()
        else:
            salt = read_salt(self.directory, self.market)
            found = None if salt is None else committed(salt, name, data)
        stated = shown if shown is not None else kept_as
        if found is None or stated is None or not hmac.compare_digest(found.encode(), stated.encode()):
            raise RunDirectoryError(f"{path}: is not what the run's ledger was closed with")
        return data

    def arrays(self, path: Path) -> Arrays:
        """Arrays of a file; raises as ``bytes``, and ``ForeignFileError`` where it holds anything else."""
        return parse_arrays(self.bytes(path), path)

    def publication(self, stage: str) -> bytes:
        """What the market published of a stage; raises ``RunDirectoryError`` where it published nothing."""
        record = self._publications.get(stage)
        if record is None:
            raise RunDirectoryError(
                f"{self._layout.transcript}: market {self.market} published no {stage}; if the run has not finished, "
                "fedmm run --resume goes on with it"
            )
        return read_record(self._layout.transcript, record)

    def published_arrays(self, stage: str) -> Arrays:
        """A publication's arrays; raises ``ForeignFileError`` on anything else."""
        return parse_arrays(self.publication(stage), self._layout.transcript / stage)

    def published_tensors(self, stage: str) -> dict[str, Any]:
        """A publication's tensors; raises ``ForeignFileError`` on anything else."""
        found: dict[str, Any] = unpickle_tensors(self.publication(stage), self._layout.transcript / stage)
        return found

    @cached_property
    def records(self) -> Sequence[Record]:
        """The run's transcript, as it was closed with; raises ``RunDirectoryError`` where it is another."""
        records = read_index(self._layout.transcript)
        if transcript_digest(records) != self._closing.get("transcript"):
            raise RunDirectoryError(f"{self._layout.transcript}: is not what the run's ledger was closed with")
        return records

    def refuse_other_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Raises ``RunDirectoryError`` where markets would be generated that are larger than the run's.

        Args:
            sizes: users and items that the configuration names, by market.
        """
        stated = self._opening.get("sizes")
        for name, size in sizes.items():
            found = stated.get(name) if isinstance(stated, Mapping) else None
            if not isinstance(found, list) or len(found) != 2 or any(map(_differ, size, found)):
                raise RunDirectoryError(
                    f"{self.directory / CONFIG_FILE}: market {name} would be generated with {size[0]} users and "
                    f"{size[1]} items, and the ledger says {found}"
                )

    @cached_property
    def _publications(self) -> Mapping[str, Record]:
        return {one.stage: one for one in self.records if (one.kind, one.sender) == (PUBLICATION, self.market)}

    def _named(self, of: str, name: str) -> str | None:
        """What the last line says of a file; None where it names none."""
        named = self._closing.get(of)
        found = named.get(name) if isinstance(named, Mapping) else None
        return found if isinstance(found, str) else None


def _differ(configured: int, stated: object) -> bool:
    return type(stated) is not int or configured != stated
