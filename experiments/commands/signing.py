"""Options of the commands that sign, and the identity that they name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from privacy.aggregation.identities import Identity
from privacy.files import KeyFileError

PASSPHRASE_VARIABLE = "FEDMM_PASSPHRASE"

KeysOption = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Directory of this party's keys.")]
SignOption = Annotated[
    Path | None, typer.Option("--sign", metavar="KEYS", help="Sign it: key directory of fedmm keys join.")
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help=f"File whose first line protects the identity; or set {PASSPHRASE_VARIABLE}."
    ),
]


def read_passphrase(path: Path | None) -> bytes | None:
    """The passphrase of a file's first line, or of the environment; None if there is none."""
    if path is None:
        return os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise KeyFileError(f"{path}: the first line is empty; it should hold the passphrase")
    return lines[0]


def read_signer(keys: Path | None, passphrase_file: Path | None) -> Identity | None:
    """The identity of ``--sign``; None where nothing is to be signed.

    Raises:
        KeyFileError: there is no identity in that directory, or not with that passphrase.
    """
    return None if keys is None else Identity.load(keys, read_passphrase(passphrase_file))
