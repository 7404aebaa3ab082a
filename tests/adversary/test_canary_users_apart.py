"""Canary users stood at the time of a market's latest row: who leaves with it took their rows along.

They are rows among a market's, and their time decides what they weigh in the counts, and what they say of when items
were met. So one user moved the sums by all canaries together, and the auditor's file had the time of one user's row.
"""

from unittest import mock

import numpy as np
import pytest

from experiments.runs import canary_files
from experiments.runs.canary_files import CONFIG_FILE, SECRET_FILE, read_canary_file, write_canary_files
from experiments.runs.configuration import resolve
from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_one
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import TINY
from tests.people import COLUMNS

ITEMS = [f"i{number:02d}" for number in range(12)]
OTHERS = [f"u{user:02d},{ITEMS[(user + step) % 12]},4,2015-06-01" for user in range(20) for step in range(3)]
LATE = [f"late,{item},4,2021-12-31" for item in ITEMS[:5]]
AWAY = ["late,nowhere,4,2015-06-01"]  # as many users, and of this one no row of the catalogue
SIGMA, NONCE = 1.0, bytes(range(32))


def configuration(folder, rows):
    folder.mkdir()
    markets = {}
    for name, lines in {"m0": rows, "m1": OTHERS, "m2": OTHERS}.items():
        (folder / f"{name}.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
        (folder / f"{name}.items.txt").write_text("\n".join(ITEMS) + "\n")
        markets[name] = {**COLUMNS, "path": f"{name}.csv", "catalogue": f"{name}.items.txt"}
    private = {"epsilon": 8.0, "protect": "release", "catalogue": "file"}
    private["contribution"] = {"reference_date": "2022-01-01"}
    data = {"root": str(folder), "markets": markets}
    return config_from_data({**TINY, "data": data, "privacy": private}, source="test")


def released(folder, rows):
    """Counts and times that a market publishes with canary users, under one noise; and the auditor's file."""
    with mock.patch.object(canary_files.secrets, "token_bytes", return_value=NONCE):
        write_canary_files(configuration(folder, rows), "m0", 100, folder / "audit")
    config = resolve(str(folder / "audit" / CONFIG_FILE), [])
    prepared = prepare_one(config.data, "m0")
    noise, dated = NoiseSource.from_seed(1), config.privacy.contribution
    found = release_counts(prepared.market, prepared.split.train, dated, SIGMA, noise, times=True)
    return np.concatenate([found.values, found.moments]), read_canary_file(folder / "audit" / SECRET_FILE)


def moved(folder):
    """How far one user moves what is published, in what a user may; and whether the auditor's files say who was in."""
    (here, with_user), (away, without) = (
        released(folder / "here", OTHERS + LATE),
        released(folder / "away", OTHERS + AWAY),
    )
    return float(np.linalg.norm(here - away)), with_user.to_data() != without.to_data()


def test_a_user_who_leaves_changes_no_canary(tmp_path):
    distance, told = moved(tmp_path)
    assert 0.5 < distance <= 1.0
    assert not told


def test_it_finds_canaries_at_the_time_of_the_latest_row(tmp_path):
    """A control, as it was."""
    with mock.patch.object(canary_files, "_time", lambda market, reference: int(market.time.max())):
        distance, told = moved(tmp_path)
    assert distance > 5.0
    assert told


@pytest.mark.parametrize("column", ["time", None])
def test_their_time_is_public_without_a_reference_date_too(tmp_path, column):
    plain = configuration(tmp_path / "rows", [row.replace("-", "") for row in OTHERS + LATE])
    data = plain.model_dump(mode="json")
    data["privacy"]["contribution"]["reference_date"] = None
    data["ctr"]["features"].remove("recency")
    data["data"]["markets"]["m0"] |= {"time": column}
    write_canary_files(config_from_data(data, source="test"), "m0", 20, tmp_path / "audit")
    assert read_canary_file(tmp_path / "audit" / SECRET_FILE).time == (None if column is None else 0)
