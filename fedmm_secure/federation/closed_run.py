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

from fedmm_secure.config import Config
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.closing import transcript_digest
from fedmm_secure.federation.private_record import committed, committed_absence, read_salt
from fedmm_secure.federation.transcript import PUBLICATION, SUM, Record, read_index, read_record
from fedmm_secure.foreign.formats import parse_arrays, unpickle_tensors
from fedmm_secure.storage.files import Arrays
from fedmm_secure.storage.layout import CONFIG_FILE, RunDirectory
from privacy.accounting.ledger import read_ledger
from privacy.foreign import ForeignFileError, read_bytes


class RunFiles:
    """One market's part of a run as it stands: for the process whose run it is, while it goes on.

    Args:
        directory: of the run.
        market: the market.
    """

    def __init__(self, directory: Path, market: str) -> None:
        self.directory, self.market = directory, market
        self._layout = RunDirectory(directory)

    def file(self, path: Path) -> bytes:
        """A file of the run, published or the market's own; raises ``ForeignFileError`` where it cannot be read."""
        return read_bytes(path, below=self.directory)

    def drawn(self, path: Path, stage: str) -> Arrays:
        """Arrays that the market drew once for a stage and keeps; raises ``ForeignFileError``."""
        return parse_arrays(read_bytes(path, below=self.directory), path)

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

    def sums(self, stage: str) -> bytes:
        """What markets added up in a stage that is one round; raises ``RunDirectoryError`` where there is none."""
        found = [one for one in self.records if (one.kind, one.stage, one.round) == (SUM, stage, 0)]
        if not found:
            raise RunDirectoryError(f"{self._layout.transcript}: has no sum of {stage}")
        return read_record(self._layout.transcript, max(found, key=lambda one: one.attempt))

    @cached_property
    def records(self) -> Sequence[Record]:
        """The run's transcript."""
        return read_index(self._layout.transcript)

    @cached_property
    def _publications(self) -> Mapping[str, Record]:
        return {one.stage: one for one in self.records if (one.kind, one.sender) == (PUBLICATION, self.market)}


class ClosedRun(RunFiles):
    """What a finished run left of one market.

    Args:
        directory: of the run.
        market: the market.

    Raises:
        LedgerError: the market's ledger cannot be read.
        RunDirectoryError: the run has not finished, or its configuration is not the one that it was closed with.
    """

    def __init__(self, directory: Path, market: str) -> None:
        super().__init__(directory, market)
        ledger = self._layout.ledger(market)
        if not ledger.is_file():
            raise RunDirectoryError(f"{ledger}: is not there; has market {market} finished (fedmm run --resume)?")
        content = read_ledger(ledger)
        if content.closing is None:
            raise RunDirectoryError(f"{ledger}: is still open; the run has not finished (fedmm run --resume)")
        self._content, self._closing, self._opening = content, content.closing, content.opening
        if self._named("files", CONFIG_FILE) is not None or (directory / CONFIG_FILE).is_file():
            self.file(directory / CONFIG_FILE)

    def file(self, path: Path) -> bytes:
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
            kept, salt = self._named("private", name), read_salt(self.directory, self.market)
            why = (
                "the run left it" if kept is None else "it is private, and only the market's own run directory holds it"
            )
            if kept is not None and salt is not None and kept == committed_absence(salt, name):
                why = "the run left none: the market's log says why"
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

    def drawn(self, path: Path, stage: str) -> Arrays:
        """Arrays that the market drew once and keeps, as the ledger has sealed them.

        Raises:
            ForeignFileError: they cannot be read.
            RunDirectoryError: no seal of the stage is of them.
        """
        data = read_bytes(path, below=self.directory)
        digest = hashlib.sha256(data).hexdigest()
        paid = [charge.sequence for charge in self._content.charges if charge.entry.stage == stage]
        if not any(charge in self._content.seals and self._content.seals[charge].digest == digest for charge in paid):
            raise RunDirectoryError(f"{path}: is not what the run's ledger has sealed")
        return parse_arrays(data, path)

    @cached_property
    def records(self) -> Sequence[Record]:
        """The run's transcript, as it was closed with; raises ``RunDirectoryError`` where it is another."""
        records = read_index(self._layout.transcript)
        if transcript_digest(records) != self._closing.get("transcript"):
            raise RunDirectoryError(f"{self._layout.transcript}: is not what the run's ledger was closed with")
        return records

    def refuse_other_sizes(self, config: Config) -> None:
        """Raises ``RunDirectoryError`` where a configuration would generate other markets than the run's."""
        spec, stated = config.data.synthetic, self._opening.get("sizes")
        if spec is None:
            return
        sizes = stated if isinstance(stated, Mapping) else {}
        same = sizes.keys() == set(config.data.names) and all(
            isinstance(size, Mapping)
            and size.get("users") == spec.users
            and (config.catalogue == "discovered" or size.get("items") == spec.items)
            for size in sizes.values()
        )
        if not same:
            raise RunDirectoryError(
                f"{self.directory / CONFIG_FILE}: would generate {spec.markets} markets of {spec.users} users and "
                f"{spec.items} items, and the ledger says other sizes: {str(dict(sizes))[:200]}"
            )

    def _named(self, of: str, name: str) -> str | None:
        """What the last line says of a file; None where it names none."""
        named = self._closing.get(of)
        found = named.get(name) if isinstance(named, Mapping) else None
        return found if isinstance(found, str) else None
