"""How data are recognised again: by a keyed hash of its rows, or a plain one where they are nobody's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_DATA = b"fedmm-secure fingerprint of data\0"
_RUN = b"fedmm-secure key of a run\0"
_READER = b"fedmm-secure key for a reader\0"
_SECRET = b"fedmm-secure secret of a run\0"
_PUBLIC = b"fedmm-secure fingerprint of public data\0"


class PublicData:
    """Stands where an account does for rows that are nobody's, as generated ones are: no run spends anything of theirs.

    Such rows are recognised by a plain hash: a guess at them tells of no person.
    """

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False, run: str = "", reader: str = "") -> str:
        """Hash of a data set; of its rows in any order, unless it is ``ordered``; the same in every run, for all."""
        digest = hashlib.sha256(_PUBLIC)
        _take(digest.update, rows, ordered)
        return digest.hexdigest()

    def secret_of_run(self, run: str) -> bytes:
        """Nothing: of nobody's rows there is nothing to keep."""
        return b""


def fingerprint_key(key: bytes, run: str = "", reader: str = "") -> bytes:
    """The key of what is said of data in public, or to one reader; without either, the account's own.

    A run's is for what it commits to in public: nobody without the account's key can compare those of two. A reader's
    is for what is said to him alone, of every run: he can compare them, and they tell nobody else anything.
    """
    if run:
        return hmac.new(key, _RUN + run.encode(), hashlib.sha256).digest()
    return hmac.new(key, _READER + reader.encode(), hashlib.sha256).digest() if reader else key


def secret_of_run(key: bytes, run: str) -> bytes:
    """What locks secrets of a run in its folder: it follows from none of the keys that are handed out."""
    return hmac.new(key, _SECRET + run.encode(), hashlib.sha256).digest()


@dataclass(frozen=True)
class RunKey:
    """What an owner hands over of an account's key: who has it compares rows with what one run says of them.

    It opens nothing else that a run says in public, no account, and none of a run's secrets. What other runs sealed for
    the same reader it knows again, since that is the same in every run.

    Attributes:
        run: the run's id.
        reader: whom it is for, by the fingerprint of a card.
        of_run: key of what the run says in public, 32 bytes.
        of_reader: key of what is said to that reader, 32 bytes.
    """

    run: str
    reader: str
    of_run: bytes = field(repr=False)
    of_reader: bytes = field(repr=False)

    @classmethod
    def of(cls, key: bytes, run: str, reader: str) -> RunKey:
        """Of an account's key."""
        return cls(run, reader, fingerprint_key(key, run), fingerprint_key(key, reader=reader))

    def fingerprint(self, rows: Iterable[bytes], *, ordered: bool = False, run: str = "", reader: str = "") -> str:
        """As the account says it.

        Raises:
            ValueError: of another run, or to another reader.
        """
        if (run, reader) not in ((self.run, ""), ("", self.reader)):
            raise ValueError("a run's key is for that run and its reader alone")
        return keyed_fingerprint(self.of_run if run else self.of_reader, rows, ordered=ordered)


def keyed_fingerprint(key: bytes, rows: Iterable[bytes], *, ordered: bool = False) -> str:
    """HMAC of a data set; of its rows in any order, unless it is ``ordered``."""
    digest = hmac.new(key, _DATA, digestmod=hashlib.sha256)
    _take(digest.update, rows, ordered)
    return digest.hexdigest()


def _take(update: Callable[[bytes], None], rows: Iterable[bytes], ordered: bool) -> None:
    """Each row with its length before it, into a hash."""
    for row in rows if ordered else sorted(rows):
        update(len(row).to_bytes(4, "big") + row)
