"""The text of a first configuration: names of markets from those of files, and a comment for every choice."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from fedmm_secure.config import MarketFile
from fedmm_secure.config.choices import BadRows
from fedmm_secure.data.loaders import is_parquet
from privacy.names import is_name

CATALOGUE_SUFFIX = ".items.txt"
Discovery = Literal["file", "discovered", "declared"]
SharedIds = Literal["refused", "composed", "distinct"]


@dataclass(frozen=True)
class FirstChoices:
    """What a first configuration says besides the files.

    Attributes:
        epsilon: the budget of each market.
        catalogue: where the public items come from.
        shared_users: what ids mean that several markets have.
        on_bad_rows: refuse them, or leave them out.
        min_item_train: training rows that an item needs.
    """

    epsilon: float
    catalogue: Discovery
    shared_users: SharedIds
    on_bad_rows: BadRows
    min_item_train: int


# -- names -------------------------------------------------------------------------------------------------------------


def market_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's market: what its name has that the others' have not.

    Folders' names count where those of the files are the same. A date is left out where the names tell markets apart
    without it: next month's file is of the same market, and its privacy account goes by the name. What is no name for a
    market becomes a number.
    """
    words = [_words(_bare(path)) for path in paths]
    undated = [_without_date(found) for found in words]
    if all(undated) and len(set(map(tuple, undated))) == len(paths):
        words = undated
    if len({tuple(found) for found in words}) < len(paths):
        words = [[*_words(path.absolute().parent.name), *found] for path, found in zip(paths, words, strict=True)]
    names = ["-".join(found) for found in _without_common(words)]
    taken: set[str] = set()
    for number, name in enumerate(names, start=1):
        fits = is_name(name) and name != "server" and name not in taken
        names[number - 1] = name if fits else f"market-{number}"
        taken.add(names[number - 1])
    return names


def _bare(path: Path) -> str:
    name = path.name.lower()
    name = name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name[1:] else name


def _without_date(words: Sequence[str]) -> list[str]:
    """Words of a file's name; its numbers are a date's where one of them begins as a year does."""
    dated = any(re.fullmatch(r"(19|20)\d\d(\d\d){0,2}", word) for word in words)
    return [word for word in words if not (dated and word.isdigit())]


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain)


def _without_common(words: Sequence[list[str]]) -> list[list[str]]:
    """Without the words that all begin or end with, as long as what is left begins with a letter."""
    found = [list(own) for own in words]
    if len(found) < 2 or not all(found):
        return found
    while all(len(own) > 1 for own in found) and len({own[-1] for own in found}) == 1:
        found = [own[:-1] for own in found]
    while all(len(own) > 1 and own[1][0].isalpha() for own in found) and len({own[0] for own in found}) == 1:
        found = [own[1:] for own in found]
    return found


def split_catalogues(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Files of rows, and of those the catalogue that lies beside each: ``NAME.items.txt`` of ``NAME.csv``."""
    rows = [path for path in paths if not path.name.lower().endswith(CATALOGUE_SUFFIX)]
    beside = {path: path.with_name(f"{_stem(path)}{CATALOGUE_SUFFIX}") for path in rows}
    return rows, {path: catalogue for path, catalogue in beside.items() if catalogue.is_file()}


def _stem(path: Path) -> str:
    name = path.name
    name = name[:-3] if name.lower().endswith(".gz") else name
    return name.rsplit(".", 1)[0]


# -- text --------------------------------------------------------------------------------------------------------------

_BAD_ROWS = {
    "error": "a row that cannot be read refuses its file; skip leaves such rows out and counts them",
    "skip": "rows that cannot be read are left out and counted; error refuses the file",
}
_SHARED = {
    "refused": "no user id may occur in two markets; composed or distinct would say what it means if one does",
    "composed": "an id that several markets have is one person, on whom their ε adds up",
    "distinct": "an id that several markets have means different people, as with running numbers",
}
_CATALOGUES = {
    "file": "which items exist is published with the model: it comes from the catalogue files above, not from rows",
    "discovered": "which items exist is published with the model: items that enough users have are found privately,\n"
    "  # at a part of the budget. Better: a file of public item ids for each market, with `catalogue: file`",
    "declared": "you vouch that the ids of all items in the rows are public; reports list that as declared",
}
_UNITS = {
    None: "ISO 8601; UTC where no zone is written",
    "iso": "ISO 8601; UTC where no zone is written",
    "number": "their order alone counts",
    "s": "seconds since 1970 in UTC",
    "ms": "milliseconds since 1970 in UTC",
    "us": "microseconds since 1970 in UTC",
    "ns": "nanoseconds since 1970 in UTC",
}


def configuration_text(root: Path, markets: Mapping[str, MarketFile], choices: FirstChoices, name: str) -> str:
    """A commented YAML configuration. It says how files are read, and nothing of what the rows hold.

    Args:
        root: folder that the files' paths are relative to.
        markets: by name.
        choices: the rest.
        name: how a command line names the configuration.
    """
    files = "\n".join(line for market, file in markets.items() for line in _market_lines(market, file))
    return f"""\
# How your files are read, and a private run of them; every line can be changed.
#   fedmm data check {name}
#     what is read of each file: rows, users, items, first and last time
#   fedmm budget {name}
#     before training: what each stage spends, and whether a market is large enough for it
#   fedmm run {name} --out runs/first
#     accuracy beside privacy, as a page

seed: 0 # one training; a list, as in [0, 1, 2], would share the budget among its trainings

data:
  root: {_value(str(root))} # folder of the files; the variable FEDMM_DATA replaces it
  on_bad_rows: {choices.on_bad_rows} # {_BAD_ROWS[choices.on_bad_rows]}
  shared_users: {choices.shared_users} # {_SHARED[choices.shared_users]}
  min_item_train: {choices.min_item_train} # training rows that an item needs to be measured on
  markets:
{files}

quantizer:
  global_codes: 32 # codewords that all markets share
  local_codes: 32 # codewords of each market; with noise, few are better than many

privacy:
  epsilon: {choices.epsilon:g} # what one user's rows can change in all that leaves a market; smaller is more private
  protect: release # models and item codes may be published; federation protects what leaves a market alone
  catalogue: {choices.catalogue} # {_CATALOGUES[choices.catalogue]}
  # contribution: {{reference_date: 2024-01-31}} # a public date, such as the export's: recent rows then count more

# Not here: the kind of aggregation. By default updates are encrypted and masked, so that the server and a curious
# market together read no single one (aggregation.kind: masked-ckks).
"""


def _market_lines(market: str, file: MarketFile) -> list[str]:
    lines = [f"    {_value(market)}:", f"      path: {_value(str(file.path))}"]

    def add(key: str, value: Any, comment: str) -> None:
        lines.append(f"      {key}: {_value(value)} # {comment}")

    if file.catalogue is not None:
        add("catalogue", str(file.catalogue), "its public items, one id a line")
    if file.separator is not None:
        add("separator", file.separator, "between the fields of a row")
    if not file.quoting:
        add("quoting", False, "quotation marks are part of the values")
    if not file.header:
        add("header", False, "the first line is a row; columns are counted from 0")
        add("width", file.width, "fields of every row")
    add("user", file.user, "column of user ids")
    add("item", file.item, "column of item ids")
    if file.rating is not None:
        add("rating", file.rating, "column of ratings; used with data.label: like alone")
    if file.time is None:
        lines.append("      # time: no column of times is named, so the order of the file counts")
    elif file.time_unit is None:
        own = "their type says the unit; UTC where it has no zone" if is_parquet(file.path) else _UNITS[None]
        add("time", file.time, f"column of times: {own}")
    else:
        add("time", file.time, "column of times")
        add("time_unit", file.time_unit, f"what they are: {_UNITS[file.time_unit]}")
    return lines


def _value(value: Any) -> str:
    """A value in YAML, in quotes where it needs them."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]
