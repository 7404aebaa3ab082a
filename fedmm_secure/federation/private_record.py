"""What a market records for itself alone, in ``private/<market>/``: it is in no directory that is handed out.

Its own updates, each of which may carry a part of the noise only; user codes, whose ε no other view counts; choices
made on private rows. A ledger is handed out, so all that it says of them is an HMAC under a random key that stays in
the market, beside them: a plain hash would confirm a guess. The last line names each by the same HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from fedmm_secure.federation.transcript import Transcript, record_file
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import Entry
from privacy.files import write_secret
from privacy.foreign import ForeignFileError, read_bytes

_SALT_BYTES = 32


class PrivateRecord:
    """A market's own part of a transcript.

    Args:
        run: the run directory.
        market: the market.
    """

    def __init__(self, run: Path, market: str) -> None:
        self._run, self._market = run, market
        self.transcript = Transcript(RunDirectory(run).private(market))

    def add(self, entry: Entry, kind: str, data: bytes, visible_to: str) -> None:
        """Keep what a charge was spent on."""
        self.transcript.add_release(entry, data, kind=kind, sender=self._market, visible_to=visible_to)

    def digest(self, entry: Entry, kind: str, data: bytes) -> str:
        """What a seal says of it; the last line will say the same."""
        file = record_file(entry.stage, entry.round or 0, entry.attempt or 0, kind, self._market)
        return committed(make_salt(self._run, self._market), private_name(self._market, file), data)


def private_name(market: str, file: str) -> str:
    """Path in a run directory of a file that a market keeps to itself."""
    return (RunDirectory().private(market) / file).as_posix()


def committed(salt: bytes, name: str, data: bytes) -> str:
    """What a ledger says of a private file: its name and its bytes, under a key that stays in the market."""
    return hmac.new(salt, name.encode() + b"\0" + data, hashlib.sha256).hexdigest()


def committed_absence(salt: bytes, name: str) -> str:
    """The same of a file that is not there: to who lacks the key it looks as any other."""
    return hmac.new(salt, b"\0" + name.encode(), hashlib.sha256).hexdigest()  # no name begins with a zero byte


def commitment(salt: bytes, path: Path, directory: Path) -> str:
    """``committed`` of a file in a run directory."""
    return committed(salt, path.relative_to(directory).as_posix(), read_bytes(path, below=directory))


def read_salt(directory: Path, market: str) -> bytes | None:
    """The key of a market's commitments; None where it is not shown."""
    try:
        salt = read_bytes(RunDirectory(directory).private_key(market), _SALT_BYTES, below=directory)
    except ForeignFileError:
        return None
    return salt if len(salt) == _SALT_BYTES else None


def make_salt(directory: Path, market: str) -> bytes:
    """The key of a market's commitments: random, and kept for the owner before anything is computed with it."""
    salt = read_salt(directory, market)
    if salt is None:
        salt = secrets.token_bytes(_SALT_BYTES)
        write_secret(RunDirectory(directory).private_key(market), salt, replace=True)
    return salt
