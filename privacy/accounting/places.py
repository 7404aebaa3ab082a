"""Where this user of this machine keeps what outlives runs: the privacy account, and how far each account had come.

``$XDG_STATE_HOME/fedmm``, by default ``~/.local/state/fedmm`` (XDG Base Directory Specification 0.8).
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy.errors import InputError
from privacy.files import locked_file, write_atomic
from privacy.foreign import MAX_TEXT_BYTES, ForeignFileError, json_object, read_bytes
from privacy.json_text import json_text

ACCOUNT_FILE = "privacy.account"
ACCOUNT_VARIABLE = "FEDMM_ACCOUNT"


class AccountPlaceError(InputError):
    """An account is named so that another folder has another one."""


def refuse_relative(path: Path, key: str) -> None:
    """Refuse a path of an account that is another file in another folder, ``~/…`` among them, which no shell has seen.

    Runs on the same rows would enter accounts that know nothing of each other.

    Raises:
        AccountPlaceError: ``key`` says who named it.
    """
    if not path.is_absolute():
        raise AccountPlaceError(
            f"{key}: {path}: in another folder this is another account, which knows of no run before; name it by its "
            f"whole path: {path.expanduser().absolute()}"
        )


def state_folder() -> Path:
    """The user's folder; it need not exist. A relative path in the variable is ignored, as the specification asks.

    Raises:
        AccountPlaceError: the user has no home, or one that is another folder wherever it is asked for.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named / "fedmm"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise AccountPlaceError(f"no home folder to keep the privacy account in: {_NAMED}") from error
    if not home.is_absolute():
        raise AccountPlaceError(f"HOME: {home}: in another folder this is another home, with another account: {_NAMED}")
    return home / ".local" / "state" / "fedmm"


_NAMED = "set HOME or XDG_STATE_HOME to a whole path"


def users_account() -> Path:
    """The account of whoever names none: that of ``FEDMM_ACCOUNT``, or the one in the user's folder.

    Raises:
        AccountPlaceError: the variable holds no whole path, or there is no folder of the user's.
    """
    named = os.environ.get(ACCOUNT_VARIABLE)
    if not named:
        return state_folder() / ACCOUNT_FILE
    refuse_relative(Path(named), ACCOUNT_VARIABLE)
    return Path(named)


@dataclass(frozen=True)
class ChainHead:
    """How far an account has come.

    Attributes:
        lines: how many it has.
        mac: of the last one, which stands for all.
    """

    lines: int
    mac: str


@dataclass(frozen=True)
class RecordedHead:
    """The head of an account as the machine last saw it, whatever path it had."""

    path: Path

    def locked(self) -> AbstractContextManager[None]:
        """Hold it against every process that uses the account, or a copy of it."""
        return locked_file(self.path.with_suffix(".lock"))

    def read(self) -> ChainHead | None:
        """None where it has seen none.

        Raises:
            ValueError: what it has seen cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            found = json_object(read_bytes(self.path, MAX_TEXT_BYTES), self.path)
            return ChainHead(int(found["lines"]), str(found["mac"]))
        except ForeignFileError as error:
            raise ValueError(str(error)) from error
        except (KeyError, TypeError) as error:
            raise ValueError(f"has no {error}") from error

    def write(self, head: ChainHead) -> None:
        """Take down how far the account has come."""
        write_atomic(self.path, json_text(asdict(head)).encode())


def recorded_head(account: str) -> RecordedHead:
    """Of the account with this hash of its key."""
    return RecordedHead(state_folder() / "accounts" / f"{account[:32]}.json")


def starting() -> AbstractContextManager[None]:
    """Hold back every other start of this user: of two runs that enter two accounts at once, one knows the other."""
    return locked_file(state_folder() / "accounts" / "starts.lock")
