"""Files of a market with an auditor's canary users among its rows, and the configuration of a run on them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.runs.markets import as_files
from fedmm_secure.config import Config, MarketFile, config_from_data
from fedmm_secure.config.choices import is_shipped
from fedmm_secure.data.canary_users import CanaryUsers
from fedmm_secure.data.catalogue import Catalogue, read_catalogue
from fedmm_secure.data.market import IntArray, Market
from fedmm_secure.data.prepare import load_one_market
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import to_yaml
from privacy.aggregation.identities import read_public
from privacy.files import PUBLIC_MODE, private_folder, write_atomic, write_json
from privacy.mechanisms.randomness import KEY_BYTES

SECRET_FILE = "canaries.json"
CONFIG_FILE = "with-canaries.yaml"
RATING = 5.0  # of canaries' rows, where the market's have ratings


@dataclass(frozen=True)
class CanaryFiles:
    """What was written.

    Attributes:
        secret: the auditor's file.
        rows: rows of those who are in, alone.
        config: of a run on the market with them.
        present: how many are in.
    """

    secret: Path
    rows: Path
    config: Path
    present: int


def write_canary_files(config: Config, market: str, count: int, out: Path) -> CanaryFiles:
    """Put canary users under a fresh nonce into a market's rows, in files of their own.

    Generated markets become files. The market's own file stays as it is; ``out`` gets a copy with the rows of those
    whose coins say so, and its catalogue with the items of all candidates.

    Raises:
        ConfigError: the market has no catalogue file, or ``out`` holds something.
        DataError: its rows cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty")
    private_folder(out)
    config = as_files(config, out)
    root = config.data.root or Path()
    files = {name: _absolute(file.located(root)) for name, file in config.data.markets.items()}
    if market not in files:
        raise ConfigError(f"market {market}: the markets are {', '.join(sorted(files))}")
    source = files[market].catalogue
    if source is None:
        raise ConfigError(f"data.markets.{market}.catalogue: canary users add items to it, and there is none")
    known = load_one_market(config.data, market)
    time = _time(known, config.privacy.contribution.reference_date) if known.has_time else None
    users = CanaryUsers(market, secrets.token_bytes(KEY_BYTES), count, time, known.calendar)
    catalogue = read_catalogue(source)
    own, whole = _table(known), _rows(users, catalogue, known)
    rows, alone, items = out / f"{market}.with-canaries.csv", out / f"{market}.canaries.csv", out / items_file(market)
    _write_table(rows, pd.concat([own, whole]))
    _write_table(alone, whole)
    write_atomic(items, users.extended(catalogue).text, PUBLIC_MODE)
    files[market] = _as_written(known, rows, items)
    write_json(out / SECRET_FILE, users.to_data())
    data = config.model_dump(mode="json", exclude_none=True)
    data["data"] |= {"markets": {name: file.model_dump(mode="json") for name, file in files.items()}}
    data["data"].pop("root", None)
    data["audit"]["users"] = {**config.audit.users, market: users.digest}
    settings = config_from_data(data, source=str(out / CONFIG_FILE))
    write_atomic(out / CONFIG_FILE, to_yaml(settings).encode(), PUBLIC_MODE)
    return CanaryFiles(out / SECRET_FILE, alone, out / CONFIG_FILE, int(users.member.sum()))


def items_file(market: str) -> str:
    """Name of the catalogue, in the folder, to which candidates' items were added."""
    return f"{market}.with-canaries.items.txt"


def read_canary_file(path: Path) -> CanaryUsers:
    """The auditor's file.

    Raises:
        ConfigError: it is something else.
        KeyFileError: it cannot be read, or is no JSON.
    """
    return CanaryUsers.from_data(read_public(path), str(path))


def _absolute(file: MarketFile) -> MarketFile:
    catalogue = file.catalogue
    if catalogue is not None and not is_shipped(catalogue):
        catalogue = catalogue.absolute()
    return file.model_copy(update={"path": file.path.absolute(), "catalogue": catalogue})


def _time(market: Market, reference: date | None) -> int:
    """Of canaries' rows: public, for a user who leaves must not change rows of others.

    The reference date, from which the age of rows counts; without one today; 0 where times are plain numbers, of which
    the order within a user alone counts.
    """
    if not market.calendar:
        return 0
    day = reference or datetime.now(UTC).date()
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9


def _table(market: Market) -> pd.DataFrame:
    frame = pd.DataFrame({"user": market.user_ids[market.user], "item": market.item_ids[market.item]})
    if not np.isnan(market.rating).all():
        frame["rating"] = market.rating
    if market.has_time:
        frame["time"] = _written(market.time, calendar=market.calendar)
    return frame


def _rows(users: CanaryUsers, catalogue: Catalogue, market: Market) -> pd.DataFrame:
    """Rows of those who are in."""
    items = users.rows(catalogue)[users.member]
    names = np.array(users.users, dtype=object)[users.member]
    frame = pd.DataFrame({"user": np.repeat(names, items.shape[1]), "item": items.ravel()})
    if not np.isnan(market.rating).all():
        frame["rating"] = RATING
    if users.time is not None:
        frame["time"] = _written(np.full(len(frame), users.time), calendar=users.calendar)
    return frame


def _written(time: IntArray, *, calendar: bool) -> IntArray | pd.Series[str]:
    """Times as they stand in the file: nanoseconds have nine digits behind the second."""
    if not calendar:
        return time
    seconds, rest = np.divmod(time, 10**9)
    texts = pd.Series(pd.to_datetime(seconds, unit="s").strftime("%Y-%m-%dT%H:%M:%S"))
    return texts + pd.Series([f".{part:09d}Z" if part else "Z" for part in rest.tolist()])


def _as_written(market: Market, rows: Path, items: Path) -> MarketFile:
    rated = not np.isnan(market.rating).all()
    return MarketFile(
        path=rows.absolute(),
        catalogue=items.absolute(),
        user="user",
        item="item",
        rating="rating" if rated else None,
        time="time" if market.has_time else None,
        time_unit=None if not market.has_time else "iso" if market.calendar else "number",
    )


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n").encode())
