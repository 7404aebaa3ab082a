"""How data are recognised again: by a keyed hash of its rows, or a plain one where they are nobody's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_DATA = b"fedmm-secure fingerprint of data\0"
_RUN = b"fedmm-secure key of a run\0"
_PUBLIC = b"fedmm-secure fingerprint of public data\0"


class PublicData:
    """Stands where an account does for rows that are nobody's, as generated ones are: no run spends anything of theirs.

    Such rows are recognised by a plain hash: a guess at them tells of no person.
    """

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False, run: str = "") -> str:
        """Hash of a data set; of its rows in any order, unless it is ``ordered``; the same for every ``run``."""
        digest = hashlib.sha256(_PUBLIC)
        _take(digest.update, rows, ordered)
        return digest.hexdigest()


def key_of_run(key: bytes, run: str) -> bytes:
    """A run's own key for what it commits to in public: nobody without the account's key can compare those of two."""
    return hmac.new(key, _RUN + run.encode(), hashlib.sha256).digest()


@dataclass(frozen=True)
class AccountKey:
    """The key of an account alone: who has it compares rows with what a ledger says of them, and enters nothing."""

    key: bytes = field(repr=False)

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False, run: str = "") -> str:
        """As the account says it."""
        key = key_of_run(self.key, run) if run else self.key
        return keyed_fingerprint(key, rows, ordered=ordered)


def keyed_fingerprint(key: bytes, rows: Iterable[bytes], *, ordered: bool = False) -> str:
    """HMAC of a data set; of its rows in any order, unless it is ``ordered``."""
    digest = hmac.new(key, _DATA, digestmod=hashlib.sha256)
    _take(digest.update, rows, ordered)
    return digest.hexdigest()


def _take(update: Callable[[bytes], None], rows: Iterable[bytes], ordered: bool) -> None:
    """Each row with its length before it, into a hash."""
    for row in rows if ordered else sorted(rows):
        update(len(row).to_bytes(4, "big") + row)
