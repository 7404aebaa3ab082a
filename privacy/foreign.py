"""The one way to read what somebody else wrote: run directories, transcripts, cards, bundles, reports, evidence.

Nothing here believes a file. It is read only if it is a regular file of bounded size; below a directory, no part of its
path may be a link, so that nothing outside is read, whatever lies inside; parsed text has a bounded depth; and reading
never changes anything. Every refusal is one line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from privacy.errors import InputError
from privacy.json_text import json_text

_Rest = ParamSpec("_Rest")
_Found = TypeVar("_Found")
MAX_BYTES = 2**30  # of one file; no run writes a larger one
MAX_TEXT_BYTES = 16 * 2**20  # of a file that is parsed as a whole
MAX_LINES_BYTES = 64 * 2**20  # of one that is parsed line by line
MAX_LINE_BYTES = 8 * 2**20
MAX_DEPTH = 100
MAX_FILES = 1_000_000
MAX_NAME_BYTES = 4096
_CHUNK = 2**20
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)  # possessive, and ends anyway: linear time
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_DIGITS = 20


class ForeignFileError(InputError):
    """A file of somebody else's that is not there, or is no file to be read; names it."""


# -- bytes -------------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int = MAX_BYTES, *, below: Path | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file.
        limit: most bytes that it may have.
        below: a directory above it: from there on, no part of the path may be a link. Without it the caller's own user
            has named the file, and where it leads is that user's business.

    Raises:
        ForeignFileError: no such file, no regular file, behind a link, or too large.
    """
    descriptor = _open(path, below)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ForeignFileError(f"{path}: not a regular file")
        if found.st_size > limit:
            raise ForeignFileError(f"{path}: too large: {found.st_size} bytes, at most {limit} are read")
        data = _read(path, descriptor, limit)
    finally:
        os.close(descriptor)
    _compare(path, data)
    return data


_seen: ContextVar[tuple[str, dict[str, bytes]] | None] = ContextVar("files read below a directory", default=None)


@contextmanager
def held_still(directory: Path) -> Iterator[None]:
    """Whoever can write into a directory while it is read cannot show one reader this and the next one that.

    Inside, a file below the directory that is read twice and is not the same is refused: what was verified is what is
    stated. Within another such block for the same directory, that one goes on.
    """
    root, outer = os.path.join(os.path.abspath(directory), ""), _seen.get()
    if outer is not None and outer[0] == root:
        yield
        return
    token = _seen.set((root, {}))
    try:
        yield
    finally:
        _seen.reset(token)


def reading_once(read: Callable[Concatenate[Path, _Rest], _Found]) -> Callable[Concatenate[Path, _Rest], _Found]:
    """A function of a directory, which is ``held_still`` meanwhile."""

    @wraps(read)
    def reading(directory: Path, /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Found:
        with held_still(directory):
            return read(directory, *args, **kwargs)

    return reading


def _compare(path: Path, data: bytes) -> None:
    seen, name = _seen.get(), os.path.abspath(path)
    if seen is None or not name.startswith(seen[0]):
        return
    digest = hashlib.sha256(data).digest()
    if seen[1].setdefault(name, digest) != digest:
        raise ForeignFileError(f"{path}: was changed while the run was read: have nobody write there, and try again")


def _read(path: Path, descriptor: int, limit: int) -> bytes:
    parts, left = [], limit + 1
    try:
        while left and (part := os.read(descriptor, min(_CHUNK, left))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise ForeignFileError(f"{path}: cannot be read: {error.strerror}") from error
    if not left:  # it grew while it was read
        raise ForeignFileError(f"{path}: too large: at most {limit} bytes are read")
    return b"".join(parts)


def _open(path: Path, below: Path | None) -> int:
    """A descriptor that waits for nobody: a pipe without a writer opens at once, and is refused by its kind."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        if below is None:
            return os.open(path, flags)
        *folders, last = inside(path, below)
        folder = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in folders:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(last, flags | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
    except ValueError:
        raise ForeignFileError(f"{path}: no name of a file") from None
    except FileNotFoundError:
        raise ForeignFileError(f"{path}: missing") from None
    except OSError as error:
        link = error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and below is not None)
        what = "is a link, or leads through one" if link else f"cannot be read: {error.strerror}"
        raise ForeignFileError(f"{path}: {what}") from error


def inside(path: Path, below: Path) -> tuple[str, ...]:
    """The parts of a path below a directory.

    Raises:
        ForeignFileError: it leads out of the directory, or is the directory itself.
    """
    try:
        parts = path.relative_to(below).parts
    except ValueError:
        parts = ()
    if not parts or ".." in parts or len(os.fsencode(path)) > MAX_NAME_BYTES:
        raise ForeignFileError(f"{below}: names a file outside: {str(path)[:200]!r}")
    return parts


def is_inside(name: str) -> bool:
    """Whether a name in somebody's file is one of a file below its directory."""
    parts = name.split("/")  # as ``PurePosixPath`` does, which takes ten times as long
    leads_somewhere = any(part not in ("", ".") for part in parts) and ".." not in parts
    return leads_somewhere and not name.startswith("/") and "\0" not in name and len(name) <= 1000


# -- text --------------------------------------------------------------------------------------------------------------


def utf8_text(data: bytes, where: Path | str) -> str:
    """UTF-8 text; raises ``ForeignFileError``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ForeignFileError(f"{where}: not a text file: byte {error.start} is no UTF-8") from error


def parse_json(data: bytes | str, where: Path | str) -> Any:
    """A JSON value: no key twice, no NaN or infinity, integers of 64 bits, text that is text, not nested without end.

    Raises:
        ForeignFileError: naming ``where``.
    """
    text = utf8_text(data, where) if isinstance(data, bytes) else data
    if _depth(text) > MAX_DEPTH:
        raise ForeignFileError(f"{where}: not valid JSON: nested deeper than {MAX_DEPTH}")
    try:
        found = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite, parse_int=bounded_integer
        )
        if _SURROGATE.search(text):  # halves of a character, which no text of UTF-8 holds, and nothing can write again
            json_text(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        raise ForeignFileError(
            f"{where}: not valid JSON: half of a character (\\ud800 to \\udfff) by itself"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{where}: not valid JSON: {str(error)[:200]}") from error


def _depth(text: str) -> int:
    """How deep brackets outside of strings are nested."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for found in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            break
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:100]!r} is there twice")
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def bounded_integer(text: str) -> int:
    """A decimal integer of 64 bits, in time that does not grow with its digits; raises ``ValueError``."""
    found = int(text) if len(text) <= _MOST_DIGITS else 2**64
    if not -(2**63) <= found < 2**63:
        raise ValueError(f"{text[:30]} is out of all bounds: more than 64 bits")
    return found


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"{text[:50]} is out of all bounds")
    return found


def json_object(data: bytes | str, where: Path | str) -> dict[str, Any]:
    """A JSON object; raises ``ForeignFileError``."""
    found = parse_json(data, where)
    if not isinstance(found, dict):
        raise ForeignFileError(f"{where}: not a JSON object")
    return found


def lines_of(data: bytes, where: Path | str) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of every line that ends in a line feed; what follows the last one never happened.

    Raises:
        ForeignFileError: a line is longer than any that is written.
    """
    start, number = 0, 0
    while (end := data.find(b"\n", start)) >= 0:
        number += 1
        if end - start > MAX_LINE_BYTES:
            raise ForeignFileError(f"{where}:{number}: a line of {end - start} bytes")
        yield number, data[start : end + 1]
        start = end + 1


# -- directories -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForeignDirectory:
    """A directory of somebody else's. Names are relative to it, with forward slashes.

    Attributes:
        path: where it is; the directory itself may be a link, since the caller's own user named it.
    """

    path: Path

    def file(self, name: str) -> Path:
        """The path of a name; raises ``ForeignFileError`` where it would lead out."""
        if not is_inside(name):
            raise ForeignFileError(f"{self.path}: names a file outside: {name[:200]!r}")
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether a regular file of this name is there, behind no link."""
        try:
            descriptor = _open(self.file(name), self.path)
        except ForeignFileError:
            return False
        try:
            return stat.S_ISREG(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)

    def bytes(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The bytes of a file; raises ``ForeignFileError``."""
        return read_bytes(self.file(name), limit, below=self.path)

    def text(self, name: str, limit: int = MAX_TEXT_BYTES) -> str:
        """The text of a file; raises ``ForeignFileError``."""
        return utf8_text(self.bytes(name, limit), self.path / name)

    def json(self, name: str, limit: int = MAX_TEXT_BYTES) -> dict[str, Any]:
        """The JSON object in a file; raises ``ForeignFileError``."""
        return json_object(self.bytes(name, limit), self.path / name)

    def lines(self, name: str, limit: int = MAX_LINES_BYTES) -> list[dict[str, Any]]:
        """The JSON objects in a file, one a line; raises ``ForeignFileError``."""
        path = self.path / name
        return [
            json_object(line, f"{path}:{number}")
            for number, line in lines_of(self.bytes(name, limit), path)
            if line.strip()
        ]

    def irregular(self, names: Sequence[str] = ("",)) -> Iterator[tuple[Path, str]]:
        """Links, pipes, devices and oversized files below some names of it, and what is wrong with each.

        Args:
            names: files and folders of it that matter; all of it where left out.
        """
        for seen, path in enumerate(self._walk(names)):
            if seen >= MAX_FILES:
                yield self.path, f"holds more than {MAX_FILES} files"
                return
            problem = _irregular(path)
            if problem:
                yield path, problem

    def size(self, names: Sequence[str]) -> int:
        """Bytes that are to be read of all regular files below some names of it."""
        found = (path.lstat() for path in self._walk(names))
        return sum(one.st_size for one in found if stat.S_ISREG(one.st_mode))

    def refuse_irregular(self) -> None:
        """Raises ``ForeignFileError`` where anything in it is no plain file or folder: then a name in it leads nowhere
        else, for those who read and for those who write."""
        for path, problem in self.irregular():
            raise ForeignFileError(f"{path}: {problem}")

    def _walk(self, names: Sequence[str]) -> Iterator[Path]:
        for name in names:
            start = self.path / name
            if not os.path.lexists(start):
                continue
            if name:
                yield start
            for folder, folders, files in os.walk(start):  # does not follow links
                yield from (Path(folder) / name for name in (*folders, *files))


def _irregular(path: Path) -> str | None:
    try:
        found = path.lstat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISLNK(found.st_mode):
        return "is a link; evidence is what the directory itself holds"
    if stat.S_ISDIR(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    return f"{found.st_size} bytes are more than a run writes" if found.st_size > MAX_BYTES else None
