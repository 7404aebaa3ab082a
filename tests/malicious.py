"""What a stranger may do to a run directory before somebody else reads it; each change can be taken back."""

import copy
import hashlib
import io
import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from privacy.accounting.ledger import GENESIS, encode_line

ESCAPE = "\x1b]0;owned\x07\x1b[2J[red]\u202e"
ALIAS_BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(22)
)
NUMBERS = (0, -1, 10**9, 10**18, 10**400, 1e308, 1e-308, True, 0.5)


def values(outside: Path) -> list[object]:
    """What a field may be given."""
    deep: object = 0
    for _ in range(90):
        deep = [deep]
    texts = ("", ESCAPE, "../../outside", str(outside / "precious"), "x" * 10**5, "=1+1", "a\nb", "\0", "$\\frac{")
    return [None, [], {}, deep, *NUMBERS, *texts, [ESCAPE] * 3, {"../../x": 1}, "\ud800"]


TEXTS = (
    b"",
    b"[" * 10**6,
    b'{"a":' * 10**5,
    b"[NaN, Infinity]",
    b'{"a": 1, "a": 2}',
    b"\xff\xfe\x00",
    b'"' + b"x" * 10**6,
    ALIAS_BOMB.encode(),
    b"- " * 10**5,
    b"1" * 10**5,
    b"a: 1" + b":1" * 10**5,
    b"{}\n" * 10**4,
)


@cache
def zip_bomb() -> bytes:
    """A gigabyte and more of zeros, as arrays and as tensors are packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("values.npy", "w") as member:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**28,)})
        member.write(header.getvalue())
        for _ in range(64):
            member.write(bytes(2**20))
    return buffer.getvalue()


@cache
def lying_zip() -> bytes:
    """A shape that no bytes fill."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
        archive.writestr("values.npy", header.getvalue())
    return buffer.getvalue()


@cache
def word_bomb(columns: tuple[str, ...], rows: int = 10**5, length: int = 10**6) -> bytes:
    """A table that repeats one long word: small as a file, rows times length in memory."""
    word = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * length]))
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict.fromkeys(columns, word)), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


BOMBS = {
    ".npz": (zip_bomb, lying_zip),
    ".pt": (zip_bomb, lying_zip),
    ".bin": (zip_bomb, lying_zip),
    ".parquet": (lambda: word_bomb(("id", "kind", "global_code", "local_code", "seed")),),
}


def fingerprint(directory: Path) -> dict[str, str]:
    """Every file below a directory by its bytes, links by where they lead."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder) / name
            key = path.relative_to(directory).as_posix()
            if path.is_symlink():
                found[key] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "folder" if path.is_dir() else "special"
    return found


Marks = dict[str, tuple[int, ...]]


def marks(directory: Path) -> Marks:
    """What tells that a file below a directory was written, made or replaced, without reading any."""
    found: Marks = {}
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(directory / below) as entries:
            for entry in entries:
                name, status = f"{below}{entry.name}", entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    found[name] = (status.st_mode, status.st_ino)  # times and size follow what is in it
                    folders.append(f"{name}/")
                else:
                    found[name] = (
                        status.st_mode,
                        status.st_ino,
                        status.st_size,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                    )
    return found


def restore(run: Path, kept: Path, before: Marks) -> None:
    """Take back what was changed below ``run`` since ``before``, when it was a copy of ``kept``."""
    after = marks(run)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed:  # a folder comes before what is in it
        path, source = run / name, kept / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, path)
        elif source.exists():
            shutil.copy2(source, path)


class Stranger:
    """Changes a run directory at random, from a seed.

    Attributes:
        run: the directory.
        outside: a folder beside it, with files that must stay as they are.
    """

    def __init__(self, run: Path, outside: Path, seed: int) -> None:
        self.run, self.outside = run, outside
        self.draw = random.Random(seed)
        self.done: list[str] = []

    def strike(self) -> None:
        """One change."""
        path = self.run / self.draw.choice(sorted(self.files()))
        names = [self.noise, self.noise, self.special, self.text, self.bomb]
        if path.suffix in (".json", ".jsonl", ".yaml"):
            names += [self.field] * 6
        change: Callable[[Path], None] = self.draw.choice(names)
        self.done.append(f"{change.__name__} {path.relative_to(self.run)}")
        change(path)

    def files(self) -> list[str]:
        """What readers look at: all files but the kept state."""
        return [n for n, mark in marks(self.run).items() if stat.S_ISREG(mark[0]) and not n.startswith("state/")]

    def special(self, path: Path) -> None:
        """Something that is no file, in its place or that of its folder."""
        if self.draw.random() < 0.3 and path.parent != self.run:
            path = path.parent
            shutil.rmtree(path)
        else:
            path.unlink()
        precious = self.outside / ("folder" if self.draw.random() < 0.5 else "precious")
        kind = self.draw.randrange(7)
        if kind == 0:
            path.symlink_to(precious)
        elif kind == 1:
            os.mkfifo(path)
        elif kind == 2:
            path.mkdir()
        elif kind == 3:
            path.symlink_to("/dev/zero")
        elif kind == 4:
            path.symlink_to(path.name)
        elif kind == 5:
            with path.open("wb") as file:
                file.truncate(2**30 + 1)  # sparse: takes no space

    def noise(self, path: Path) -> None:
        """Other bytes, fewer, or more."""
        data = bytearray(path.read_bytes())
        kind = self.draw.randrange(3)
        if kind == 0 or not data:
            for _ in range(self.draw.randrange(1, 8)):
                if data:
                    data[self.draw.randrange(len(data))] = self.draw.randrange(256)
        elif kind == 1:
            del data[self.draw.randrange(len(data)) :]
        else:
            at = self.draw.randrange(len(data))
            data[at:at] = self.draw.randbytes(self.draw.choice([1, 100, 10_000]))
        path.write_bytes(data)

    def text(self, path: Path) -> None:
        """A text that a parser may not come back from."""
        text = self.draw.choice(TEXTS)
        path.write_bytes(text if self.draw.random() < 0.7 else path.read_bytes() + text + b"\n")

    def bomb(self, path: Path) -> None:
        """A small file that unpacks into a large one."""
        path.write_bytes(self.draw.choice(BOMBS.get(path.suffix, (zip_bomb,)))())

    def field(self, path: Path) -> None:
        """Another value, key, or order of lines in a file of fields; a ledger's chain is computed again."""
        if path.suffix == ".jsonl":
            self._lines(path)
            return
        load = yaml.safe_load if path.suffix == ".yaml" else json.loads
        try:
            content = load(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError, RecursionError):
            return
        content = self._changed(content)
        if path.suffix == ".yaml":
            path.write_bytes(yaml.dump(content).encode("utf-8", "surrogatepass"))
        else:
            path.write_text(json.dumps(content), encoding="utf-8")

    def _lines(self, path: Path) -> None:
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (ValueError, RecursionError):
            return
        if not lines:
            return
        at = self.draw.randrange(len(lines))
        lines[at] = self._changed(lines[at])
        if path.parent.name == "ledger" and self.draw.random() < 0.7:
            path.write_bytes(b"".join(self._chain(lines)))
        else:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _chain(self, lines: list[dict]) -> Iterator[bytes]:
        head = GENESIS
        for number, line in enumerate(lines):
            try:
                raw, head = encode_line(line["kind"], line["body"], number, head)
            except (KeyError, TypeError, ValueError):
                raw = json.dumps(line).encode() + b"\n"
            yield raw

    def _changed(self, content: object) -> object:
        content = copy.deepcopy(content)
        parent, key = None, None
        found = content
        while isinstance(found, dict | list) and found and self.draw.random() < 0.9:
            keys = list(found) if isinstance(found, dict) else list(range(len(found)))
            parent, key = found, self.draw.choice(keys)
            found = parent[key]
        value = self.draw.choice(values(self.outside))
        if isinstance(found, int | float) and self.draw.random() < 0.5:
            value = self.draw.choice(NUMBERS)
        if parent is None:
            return value
        kind = self.draw.randrange(4)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[self.draw.choice(["../../x", ESCAPE, "=1", "m9", "\ud800", "x" * 5000])] = found
        else:
            parent[key] = value
        return content


@contextmanager
def strangers(run: Path, outside: Path, seed: int, kept: Path) -> Iterator[Stranger]:
    """A run that a stranger has changed once to three times; it is a copy of ``kept``, and will be again."""
    stranger = Stranger(run, outside, seed)
    before = marks(run)
    try:
        for _ in range(stranger.draw.randrange(1, 4)):
            if stranger.files():
                stranger.strike()
        yield stranger
    finally:
        restore(run, kept, before)
