"""The public items of a market.

Whatever is published has one entry an item, so the set of items must not follow from private rows: one user with an
item of their own would change the length of what is published. A catalogue comes from elsewhere: a file, the
synthetic generator, a differentially private discovery, or the operator's word that the items found are public.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmm_secure.config.choices import SHIPPED, CatalogueKind, is_shipped
from fedmm_secure.errors import DataError
from fedmm_secure.foreign.file_kinds import FileKindError, refuse_other_kinds
from fedmm_secure.foreign.growth import GrowthError, Unzipped
from privacy.arrays import IntArray

BROUGHT: tuple[CatalogueKind, ...] = ("file", "synthetic")  # kinds that come with a market's rows, and not from them
_UNPRINTABLE = frozenset({"Cc", "Zl", "Zp"})  # control characters, line and paragraph separators


@dataclass(frozen=True)
class Catalogue:
    """Public items of a market.

    Attributes:
        kind: where it comes from.
        items: ids, ``(n_items,)``, ascending and distinct; position = item index in everything that is published.
    """

    kind: CatalogueKind
    items: NDArray[np.object_]

    @classmethod
    def of(cls, kind: CatalogueKind, ids: Collection[str]) -> Catalogue:
        """The catalogue of some ids, in any order."""
        return cls(kind, np.array(sorted(set(ids)), dtype=object))

    def __len__(self) -> int:
        return len(self.items)

    def index(self, ids: NDArray[np.object_]) -> IntArray:
        """Item index of each id ``(n,)``; -1 outside the catalogue."""
        return np.asarray(pd.Index(self.items).get_indexer(pd.Index(ids)), dtype=np.int64)

    @property
    def text(self) -> bytes:
        """The ids, one a line: a sorted catalogue file."""
        return "".join(f"{item}\n" for item in self.items).encode()

    @property
    def sha256(self) -> str:
        """Hash of the sorted ids, one a line."""
        return hashlib.sha256(self.text).hexdigest()

    def stated(self) -> dict[str, Any]:
        """What a run says of it."""
        return {"kind": self.kind, "sha256": self.sha256, "size": len(self)}


def read_catalogue(name: Path) -> Catalogue:
    """Read a catalogue file: UTF-8 text, plain or gzip, one item id a line, in any order.

    Args:
        name: a path, or ``shipped:FOLDER/NAME`` for one that comes with the package.

    Raises:
        DataError: the file cannot be read, or a line is empty, a duplicate, or holds characters that no id has; the
            message names file and line.
    """
    path = _shipped(str(name)) if is_shipped(name) else name
    first: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            raise DataError(f"{path}:{number}: empty line; a catalogue holds one item id a line")
        if line != line.strip():
            raise DataError(f"{path}:{number}: item id {line!r} starts or ends with a blank")
        if not fits_on_a_line(line):
            raise DataError(f"{path}:{number}: item id {line!r} holds a control character")
        if line in first:
            raise DataError(f"{path}:{number}: item id {line!r} again, after line {first[line]}")
        first[line] = number
    return Catalogue.of("file", first)


def fits_on_a_line(identifier: str) -> bool:
    """Whether an id fits on one line of a catalogue: no control character, no line separator."""
    return not any(unicodedata.category(character) in _UNPRINTABLE for character in identifier)


def _lines(path: Path) -> Iterator[str]:
    """Lines, one at a time: the first that is none ends the reading."""
    if not path.is_file():
        raise DataError(f"{path}: no such catalogue file")
    try:
        with path.open("rb") as raw:
            data = Unzipped(raw).read_all()
        refuse_other_kinds(data)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; convert it first") from error
    except (GrowthError, FileKindError) as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def _shipped(name: str) -> Path:
    folder = Path(str(resources.files("fedmm_secure.data") / "catalogues"))
    known = {f"{SHIPPED}{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.txt"))}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"those are {', '.join(known)}"
        raise DataError(f"{name}: no catalogue of this name comes with the package; {hint}")
    return known[name]
