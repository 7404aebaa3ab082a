"""The file of a privacy account: lines that are appended, each authenticated with all before it.

The first line commits to the key; each line carries an HMAC under it of its place, of the HMAC before, and of what it
says. What no chain shows, that last lines are missing, shows as long as the machine remembers how far the account had
come (``privacy.accounting.places``).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.accounting.account_lines import body_problem, parse_line
from privacy.accounting.lines import append_line, canonical_json, drop_torn_tail
from privacy.accounting.places import ChainHead, RecordedHead, recorded_head, starting
from privacy.errors import InputError
from privacy.files import locked_file, write_secret
from privacy.foreign import MAX_LINE_BYTES, ForeignFileError, lines_of, read_bytes

_KEY_BYTES = 32
_MOST_BYTES = 2**28  # of an account: a million charges
_VERSION = 2
_GENESIS = "0" * 64
_LINE = b"fedmm-secure privacy account line\0"
Body = dict[str, Any]  # of a line, in the words of ``privacy.accounting.spendings``


class AccountError(InputError):
    """An account that cannot be read or written; names file and line."""


@dataclass
class _Checked:
    """The beginning of an account that was found to be as it was written.

    Attributes:
        key: of the account.
        size: of the beginning, in bytes.
        digest: over them.
        bodies: what each line after the first says, with its number.
        heads: HMAC of each line.
    """

    key: bytes = field(repr=False)
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    bodies: list[tuple[int, Body]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @property
    def head(self) -> ChainHead:
        return ChainHead(len(self.heads), self.heads[-1] if self.heads else _GENESIS)

    def take(self, raw: bytes, body: Body, mac: str) -> None:
        """One more line."""
        self.size += len(raw)
        self.digest.update(raw)
        self.heads.append(mac)
        if len(self.heads) > 1:
            self.bodies.append((len(self.heads), body))

    def copy(self) -> _Checked:
        """To go on with: what is found wrong later leaves this as it is."""
        return _Checked(self.key, self.size, self.digest.copy(), self.bodies[:], self.heads[:])


class AccountFile:
    """Lines of an account, and the key beside them.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key_path = path.with_name(f"{path.name}.key")
        self._checked = _Checked(b"")

    def is_there(self) -> bool:
        """Whether an account is here, or something that stands for one and is refused when it is read.

        None is where a process was killed as it began one: the key, no whole line, and nothing that the machine
        remembers. Where it remembers lines, one is missing.
        """
        if not self._key_path.exists():
            return os.path.lexists(self.path)
        try:
            return b"\n" in self._content() or self._last_seen(recorded_head(digest_of(self.key()))) is not None
        except AccountError:
            return True

    def require_known(self) -> None:
        """Refuse a file that this machine never wrote as an account, such as one that somebody laid there; no change.

        Raises:
            AccountError: it holds no line, or this machine does not remember how far it had come.
        """
        try:
            begun = self.path.stat().st_size > 0 and self._lines(*self._state(self.key()))[1].lines > 0
            known = begun and self._last_seen(recorded_head(digest_of(self.key()))) is not None
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not known:
            raise AccountError(
                f"{self.path}: is in the way, and no account that this machine has written: remove it, or name it in "
                "privacy.account if you trust it"
            )

    def begun(self) -> bytes:
        """The key of the account, which is made where there is neither account nor key; for who holds the lock."""
        if self.path.exists() and self.path.stat().st_size:
            key = self.key()
            if not self._content().endswith(b"\n"):
                self._lines(*self._state(key))  # no account, or one whose last line was written whole: nothing is cut
                drop_torn_tail(self.path)
            if self.path.stat().st_size:
                return key
        if self.path.exists() and not self._key_path.exists():  # the key is there first
            raise AccountError(
                f"{self.path}: is empty and has no key: no account was ever here; remove it, and runs enter another"
            )
        if not self._key_path.exists():
            write_secret(self._key_path, secrets.token_bytes(_KEY_BYTES))
        key = self.key()
        # refused where the machine knows of lines of this key
        _, head = self._lines(b"", key, self._last_seen(recorded_head(digest_of(key))))
        self.append(key, head, {"version": _VERSION, "key": digest_of(key)})
        return key

    def remember(self, key: bytes) -> None:
        """Take down how far the account has come, where this machine has seen nothing of it; for who holds the lock."""
        seen = recorded_head(digest_of(key))
        with seen.locked():
            if self._last_seen(seen) is None:
                _, head = self.bodies(key)
                seen.write(head)

    def key(self) -> bytes:
        """The key beside the file; raises ``AccountError`` where it is gone."""
        try:
            key = read_bytes(self._key_path, 2 * _KEY_BYTES)
        except ForeignFileError as error:
            if self._key_path.exists():
                raise AccountError(str(error)) from error
            raise AccountError(
                f"{self._key_path}: is gone, and without it {self.path} tells of no data what was spent on it: restore "
                "it from a backup; if it is lost for good, keep the account as a record and name another in "
                "privacy.account, which will not know of the runs before"
            ) from None
        if len(key) != _KEY_BYTES:
            raise AccountError(f"{self._key_path}: {len(key)} bytes where a key has {_KEY_BYTES}")
        return key

    def append(self, key: bytes, head: ChainHead, body: Mapping[str, Any]) -> None:
        """One more line, once it is on disk; for who holds the lock. ``head`` is where the account was read to."""
        if head.lines and (problem := body_problem(body)):
            raise AccountError(f"{self.path}: cannot hold what the run would enter: {problem}")
        fields = {"sequence": head.lines, "previous": head.mac, "body": body}
        mac = _mac(key, fields)
        seen = recorded_head(digest_of(key))
        with seen.locked():  # a copy of the account may be at another path, with a lock of its own
            latest = self._last_seen(seen)
            if latest is not None and latest != head and latest.lines >= head.lines:
                raise AccountError(f"{self.path}: {_OLDER}")
            written = canonical_json({**fields, "mac": mac}) + b"\n"
            if len(written) > MAX_LINE_BYTES:
                raise AccountError(f"{self.path}: cannot hold what the run would enter: a line of {len(written)} bytes")
            if head.lines and self.path.stat().st_size + len(written) > _MOST_BYTES:
                raise AccountError(
                    f"{self.path}: is full: with one more line nobody could read it; keep it as a record, and name "
                    "another in privacy.account, which will not know of its runs"
                )
            append_line(self.path, written)
            seen.write(ChainHead(head.lines + 1, mac))

    def _state(self, key: bytes) -> tuple[bytes, bytes, ChainHead | None]:
        """The file, the key, and how far the machine saw it come before it was read.

        In this order, for readers hold no lock: another run may append a line at any moment, and only then is it noted
        how far the account has come. So the file is never behind what was noted before.
        """
        last_seen = self._last_seen(recorded_head(digest_of(key)))
        return self._content(), key, last_seen

    def _content(self) -> bytes:
        """The file; nothing where none is."""
        if not os.path.lexists(self.path):
            return b""
        try:
            return read_bytes(self.path, _MOST_BYTES)
        except ForeignFileError as error:
            raise AccountError(str(error)) from error

    def _last_seen(self, head: RecordedHead) -> ChainHead | None:
        """How far the machine saw the account come; None where it has seen nothing of it."""
        try:
            return head.read()
        except ValueError as error:
            raise AccountError(
                f"{self.path}: what this machine remembers of the account, {head.path}, cannot be read ({error}): "
                "restore it, or remove it if the account is the latest that you have"
            ) from error

    def _lines(
        self, content: bytes, key: bytes, last_seen: ChainHead | None
    ) -> tuple[list[tuple[int, Body]], ChainHead]:
        """What each whole line says, with its number, once all of them are as they were written.

        Raises:
            AccountError: a line was edited, inserted or left out, or the machine has seen a later state of the account.
        """
        found = self._unchanged(content, key)
        for _, raw in lines_of(content[found.size :], self.path):  # of a torn one the sync never returned
            head, number = found.head, len(found.heads) + 1
            try:
                line = parse_line(raw, f"line {number}")
                fields = {name: line[name] for name in ("sequence", "previous", "body")}
                mac, body = _mac(key, fields), line["body"]
                holds = hmac.compare_digest(line["mac"].encode(), mac.encode())
            except (ForeignFileError, ValueError) as error:
                raise AccountError(
                    f"{self.path}:{number}: not a line of a privacy account of this version: {error}; keep the file "
                    "as a record, and name another in privacy.account, which will not know of its runs"
                ) from error
            if not holds or (line["sequence"], line["previous"]) != (head.lines, head.mac):
                raise AccountError(
                    f"{self.path}:{number}: not as it was written, or lines before it are missing, or {self._key_path} "
                    "is another account's key: restore both from a backup"
                )
            if number == 1 and body != {"version": _VERSION, "key": digest_of(key)}:
                raise AccountError(f"{self.path}:1: does not say that this is an account of this version and key")
            if number > 1 and (problem := body_problem(body)):
                raise AccountError(f"{self.path}:{number}: says what no run enters: {problem}")
            found.take(raw, body, mac)
        head, self._checked = found.head, found
        if last_seen is not None and last_seen.lines > head.lines:
            raise AccountError(f"{self.path}: has {head.lines} of {last_seen.lines} lines: {_OLDER}")
        if last_seen is not None and last_seen.lines and found.heads[last_seen.lines - 1] != last_seen.mac:
            raise AccountError(f"{self.path}:{last_seen.lines}: {_OLDER}")
        return found.bodies[:], head

    def _unchanged(self, content: bytes, key: bytes) -> _Checked:
        """What was checked before, where the file still begins with it: an account is read at every charge and seal."""
        kept = self._checked
        same = kept.key == key and hashlib.sha256(content[: kept.size]).digest() == kept.digest.digest()
        return kept.copy() if same else _Checked(key)

    def bodies(self, key: bytes) -> tuple[list[tuple[int, Body]], ChainHead]:
        """What each line says, with its number, and where the last one stands; raises ``AccountError``."""
        try:
            state = self._state(key)
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be read: {error.strerror}") from error
        bodies, head = self._lines(*state)
        if not head.lines:
            raise AccountError(f"{self.path}: no privacy account is here")
        return bodies, head

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the account: one process reads and appends at a time."""
        with self._held(locked_file(self.path.with_name(f".{self.path.name}.lock"))):
            yield

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Hold back every other start on this machine, whichever account it enters; taken before ``locked``."""
        with self._held(starting(), "set XDG_STATE_HOME to where this machine can remember accounts"):
            yield

    @contextmanager
    def _held(self, lock: AbstractContextManager[None], advice: str = "set privacy.account") -> Iterator[None]:
        try:
            with lock:
                yield
        except OSError as error:
            raise AccountError(f"{self.path}: cannot be used: {error.strerror}; {advice}") from error


_OLDER = (
    "this machine has seen a later state of the account: this is an older copy, or one of two that went on apart; "
    "restore the latest, or keep this one as a record and name another in privacy.account"
)


def _mac(key: bytes, fields: Mapping[str, Any]) -> str:
    return hmac.new(key, _LINE + canonical_json(fields), hashlib.sha256).hexdigest()


def digest_of(key: bytes) -> str:
    """Hash of a key, by which copies of an account know each other."""
    return hashlib.sha256(key).hexdigest()
