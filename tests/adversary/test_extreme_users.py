"""One user is the extreme of everything: first or last of a file and of its ids, alone with a rating or a date.

What is read of all others stays the same, and in a space that markets share, too, a user moves sums by own rows alone.
"""

import io
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from fedmm_secure.collaborative.shared_dp_svd import (
    NoisySums,
    SharedDPSVDEmbedding,
    private_factors,
    timed_contributions,
)
from fedmm_secure.config import MarketFile
from fedmm_secure.ctr.private_features import PrivateHistory
from fedmm_secure.data.loaders import load_market
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import noise_of_sum, rows_of_sum, rows_part
from tests.adversary import test_neighbour_configurations as configurations
from tests.adversary import test_neighbour_sums as sums

# -- what is read ------------------------------------------------------------------------------------------------------

DAYS = {None: "2020-01-{:02d}", "iso": "2020-01-{:02d}T10:00:00+02:00", "s": "15778368{:02d}", "number": "{}"}
ODD = [
    ("~" * 500, "zz", "0.5", "9999-12-31"),
    ("~", "1", "1e300", "2262-04-10T00:00:00.000000001Z"),
    ("~", '"a""b"', "1", "1.5"),
    ("~", '"open', "1", "-9223372036854775808"),
    ("!", "\u202e", "nan", "1577836800.25"),
    ("!", "x" * 5000, "-1", "1677-09-22"),
    ("!", "i00", "1", ""),
    ("!", "i\r0", "1", "0"),
    ("!", "\udcff\udce2", "1", "99999999999999999999"),
    ("!",),
]


def lines(unit):
    """Rows of a dozen users, spelled as their times' unit has them."""
    return [[f"0{n % 12}", f"{n % 14:02d}", str(1 + n % 5), DAYS[unit].format(10 + n // 3)] for n in range(60)]


def as_file(rows):
    text = "".join(f"{','.join(row)}\n" for row in [["user", "item", "rating", "time"], *rows])
    return text.encode("utf-8", "surrogateescape")


def others_in(market):
    """Rows of all users but the odd ones, and what kind of times they are."""
    own = np.char.startswith(market.user_ids.astype(str), "0")[market.user]
    columns = market.user_ids[market.user], market.item_ids[market.item], market.rating, market.time
    return [column[own].tolist() for column in columns], market.calendar, market.has_time


def places(rows):
    """Odd rows before all others, behind them, and among them."""
    yield from (ODD + rows, rows + ODD, [row for n, own in enumerate(rows) for row in (*ODD[n : n + 1], own)])


@pytest.mark.parametrize("block", [64, 2**20])
@pytest.mark.parametrize("unit", DAYS)
def test_no_row_changes_how_those_of_others_are_read(tmp_path, monkeypatch, unit, block):
    monkeypatch.setattr("fedmm_secure.data.text.BLOCK_BYTES", block)
    path = tmp_path / "m.csv"
    file = MarketFile(path=path, user="user", item="item", rating="rating", time="time", time_unit=unit)

    def read(rows):
        path.write_bytes(as_file(rows))
        return others_in(load_market(file, "m", on_bad_rows="skip"))

    rows = lines(unit)
    expected = read(rows)
    assert len(expected[0][0]) == 60
    for there in places(rows):
        assert read(there) == expected


def test_it_finds_types_that_all_rows_have_a_say_in():
    """A control, as tables are commonly read: one id that is no number changes those of all."""
    found = [
        pd.read_csv(io.BytesIO(as_file(rows))).user.astype(str)[:60].tolist()
        for rows in (lines(None), [*lines(None), ["~", "zz", "1", "2020-01-01"]])
    ]
    assert found[0] != found[1]


# -- a space that markets share ----------------------------------------------------------------------------------------

SHARED = {
    "data": {"negatives_per_positive": 2},
    "embedding": {"private": {"dim": 3, "max_items": 12}},
    "ctr": {"model": "deepfm", "features": ["scores", "counts", "recency"], "hidden": [4]},
    "privacy": {**configurations.RELEASE, "pseudo_users": 0},
}
SIZE = 12  # items of the summed Gram matrix
USERS = ["!", "~~"]  # before all others in order of ids, and behind them


@pytest.fixture
def shared(monkeypatch):
    """The stages that follow from sums over all markets, with such sums released before."""
    monkeypatch.setitem(configurations.CONFIGURATIONS, "shared", SHARED)
    configurations.set_up(monkeypatch, "shared")
    config = sums.CONFIG
    features = (*config.ctr.features, "shared")
    monkeypatch.setattr(
        sums, "CONFIG", config.model_copy(update={"ctr": config.ctr.model_copy(update={"features": features})})
    )
    without, private = sums.WITHOUT, config.embedding.private
    rows = timed_contributions(without.market, without.split.train, sums.POSITION, 16, sums.DATED, sums.SIGMA)
    total = rows_part(rows, sums.NORM, NoiseSource.from_seed(5)).values
    noisy = NoisySums(*rows_of_sum(total, sums.NORM).reshape(2, -1), noise_of_sum(sums.NORM, 3))
    items, gram = noisy.chosen(SIZE), np.random.default_rng(3).normal(size=(SIZE, SIZE))
    factors = private_factors(noisy, items, gram + gram.T, 0.1, private)

    def embedded(prepared):
        found = SharedDPSVDEmbedding(sums.RELEASED, private, noisy, items, sums.POSITION)
        return found.set_factors(factors, sums.train_matrix(prepared))

    monkeypatch.setattr(sums, "embedded", embedded)
    monkeypatch.setattr(sums, "PUBLISHED", sums.trained())


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("stage", ["quantizer", "ctr", "figures"])
def test_a_user_moves_a_sum_by_own_integers_alone_in_a_shared_space(shared, stage, user):
    whole, own = configurations.moved(stage, sums.EVERYTHING[:10], user)
    np.testing.assert_array_equal(whole, own)
    assert own.any()
    assert sums.squares(own) <= sums.STAGES[stage][1]


def test_it_finds_times_that_count_from_those_of_all(shared):
    """A control: as times are commonly centred, one user moves the gradients of all."""
    honest = PrivateHistory._since

    def since(self, when, user):
        found = honest(self, when, user)
        return found | {"when": found["when"] - self._active.mean()}

    rows = [(item, 2**62, 5.0) for item in sums.ITEMS[:3]]
    with mock.patch.object(PrivateHistory, "_since", since):
        whole, own = configurations.moved("ctr", rows, USERS[-1])
    assert not np.array_equal(whole, own)
