"""Markets not read by ``load_market``: ids as rows name them, one person twice, few bits, items found in the rows."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from fedmm_secure import FedMM, api
from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.config import ContributionConfig
from fedmm_secure.data import prepare as preparing
from fedmm_secure.data.candidates import Pool, pair_keys, with_negatives
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.discovery import discover
from fedmm_secure.data.market import Market, build_market, rank_from_latest, restrict
from fedmm_secure.data.prepare import prepare, stated_catalogue
from fedmm_secure.errors import ConfigError, DataError
from fedmm_secure.pipeline import run_pipeline
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from tests.conftest import tiny

DATA = tiny(data={"min_item_train": 1}).data
ITEMS = [f"i{number:02d}" for number in range(12)]
OTHERS = [(f"u{user:03d}", item, time) for user in range(200) for time, item in enumerate(ITEMS)]
VICTIM = [("v", item, time) for time, item in enumerate(reversed(ITEMS))]
SIGMA = 0.7
RELEASE = {"data": {"min_item_train": 1}, "privacy": {"epsilon": 8.0, "protect": "release"}, "ctr": {"baselines": []}}


def by_hand(rows, name="m"):
    """As ``pandas.factorize`` numbers users and items, unless it is told to sort: by who comes first."""
    table = pd.DataFrame(rows, columns=["user", "item", "time"])
    user, user_ids = pd.factorize(table["user"])
    item, item_ids = pd.factorize(table["item"])
    order = np.lexsort((table["time"], user))
    ids = (np.asarray(found, dtype=object) for found in (user_ids, item_ids))
    columns = (user[order], item[order], np.full(len(order), np.nan), table["time"].to_numpy()[order])
    return Market(name, *ids, *columns)


def as_it_was(market):
    """Prepared without a look at the order of ids."""
    with mock.patch.object(preparing, "refuse_disorder"):
        return prepare(market, DATA)


# -- the order of what is published ------------------------------------------------------------------------------------


def discovered(prepared):
    whole, selection = prepared.whole, PartitionSelection(8, 1.0, 1e-6)
    found, _ = discover(whole.market, whole.split.train, selection, NoiseSource.from_entropy())
    return found.text.decode().split()


def test_the_order_of_discovered_items_said_whose_row_comes_first():
    """All of them are found, with the user and without; one look at their order told which it was."""
    with_user, without = (discovered(as_it_was(by_hand(rows))) for rows in (VICTIM + OTHERS, OTHERS))
    assert sorted(with_user) == sorted(without)
    assert with_user == without[::-1]
    for rows in (VICTIM + OTHERS, OTHERS[::-1]):
        with pytest.raises(DataError, match=r"market m: (user|item) id \d+ \(from 0\) is not in order"):
            prepare(by_hand(rows), DATA)


def test_a_catalogue_has_to_be_in_order_too():
    market = by_hand(OTHERS)
    turned = Catalogue("file", market.item_ids[::-1])
    with pytest.raises(DataError, match=r"market m: catalogue id 1 \(from 0\) is not in order"):
        prepare(replace(market, catalogue=turned), DATA)
    assert prepare(replace(market, catalogue=Catalogue.of("file", ITEMS)), DATA).market.n_items == len(ITEMS)


# -- who is one user ---------------------------------------------------------------------------------------------------


class Silent(NoiseSource):
    """No noise."""

    def derive(self, *purpose):
        return self

    def discrete_gaussian(self, count, *, levels=LEVELS):
        return np.zeros(count, dtype=np.int64)


def squares(rows):
    """By how much the sum of counts moves if nobody but these users is there, squared, in grid units."""
    prepared, grid = as_it_was(rows), Grid.of(SIGMA)
    noise = Silent(bytes(32), seeded=True)
    found = release_counts(prepared.market, prepared.split.train, ContributionConfig(), SIGMA, noise)
    return sum(int(value) ** 2 for value in np.rint(found.values / grid.step).tolist())


def test_a_person_who_stands_there_twice_moved_a_sum_twice_as_far():
    """One id, numbered anew in each of two files, say."""
    one, two = by_hand(VICTIM), by_hand([*VICTIM, *(("w", item, time) for _, item, time in VICTIM)])
    twice = replace(two, user_ids=np.array(["v", "v"], dtype=object))
    bound = Grid.of(SIGMA).squared_bound
    assert squares(one) <= bound < 3.9 * bound < squares(twice)
    ordered = replace(twice, item_ids=np.array(ITEMS, dtype=object), item=len(ITEMS) - 1 - twice.item)
    with pytest.raises(DataError, match=r"market m: user id 1 \(from 0\) is not in order: ids are texts, each there"):
        prepare(ordered, DATA)


@pytest.mark.parametrize("ids", [[1, 2], ["1", 2], [None, "2"]])
def test_ids_are_texts(ids):
    """What is no text is published as one all the same, in an order that is not theirs."""
    market = replace(by_hand(OTHERS[:24]), user_ids=np.array(ids, dtype=object))
    with pytest.raises(DataError, match=r"market m: user id [01] \(from 0\) is not in order: ids are texts"):
        prepare(market, DATA)


# -- indices -----------------------------------------------------------------------------------------------------------

MANY = [f"i{number:03d}" for number in range(400)]
LAST = 164  # in 16 bits, 164 · 400 is 64: this user's pairs are those of user 0


def narrow(victims):
    """Users of three items each, behind one of so many; indices have 16 bits, as those of a table's categories."""
    rows = [("a", item) for item in MANY[:victims]]
    rows += [(f"u{number:03d}", item) for number in range(LAST) for item in MANY[:3]]
    market = build_market("m", *map(list, zip(*rows, strict=True)), None, None, catalogue=Catalogue.of("file", MANY))
    return replace(market, user=market.user.astype(np.uint16))


class Halfway:
    """The same draw for everybody, and another where it is drawn again."""

    at = 0.501

    def uniforms(self, count):
        drawn, self.at = np.full(count, self.at), 0.999
        return drawn

    def integers(self, bound, count):
        return np.full(count, bound // 2)


def negatives_of_the_last(market):
    """As training draws them."""
    rows, n_items = np.flatnonzero(market.user == LAST), len(MANY)
    pool = Pool(np.arange(n_items), np.full(n_items, 1 / n_items), 1.0)
    touched = pair_keys(market.user, market.item, n_items)
    found = with_negatives(market.user[rows], market.item[rows], pool, touched, n_items, 1, Halfway())
    return found.item[found.label == 0].tolist()


def test_indices_of_few_bits_took_one_users_items_for_anothers():
    """One user's rows moved another's examples, and so the sum by more than the noise is for."""
    without, with_rows = (as_it_was(narrow(victims)).market for victims in (3, 399))
    assert negatives_of_the_last(without) == [200, 200, 200]
    assert min(negatives_of_the_last(with_rows)) > 330
    with pytest.raises(DataError, match=r"market m: user is uint16 of shape \(495,\), where int64 of shape \(495,\)"):
        prepare(narrow(3), DATA)
    for victims in (3, 399):
        whole = replace(narrow(victims), user=narrow(victims).user.astype(np.int64))
        assert negatives_of_the_last(prepare(whole, DATA).market) == [200, 200, 200]


@pytest.mark.parametrize(
    "columns", [{"item": -1}, {"item": 12}, {"user": 200}, {"time": 0.5}, {"rating": None}, {"item": [0]}]
)
def test_a_column_of_another_kind_is_refused(columns):
    """-1 is what a table's categories say of nothing, and the last item to an array."""
    users, items, times = (list(column) for column in zip(*OTHERS, strict=True))
    market = prepare(build_market("m", users, items, None, np.array(times)), DATA).market
    (name, value) = next(iter(columns.items()))
    column = np.array(value) if isinstance(value, list) else np.full(market.n_rows, value)
    with pytest.raises(DataError, match=f"market m: {name} is "):
        prepare(replace(market, **{name: column}), DATA)


def test_a_mask_hid_rows_of_others_among_a_users():
    """Whose latest a row is followed from how many rows others have: masked rows are neither before nor behind."""
    market = build_market("m", *map(list, zip(*[row[:2] for row in OTHERS], strict=True)), None, None)
    user, mask = market.user.copy(), np.zeros(market.n_rows, dtype=bool)
    user[[3, 15]], mask[[3, 15]] = user[[15, 3]], True  # two rows change places
    masked = replace(market, user=np.ma.masked_array(user, mask=mask))
    assert not (masked.user[1:] < masked.user[:-1]).any()  # as it was asked
    here, alone = (rank_from_latest(np.asarray(found), market.n_users) for found in (masked.user, market.user))
    assert here[15] < 0 <= alone.min()  # a row after its user's latest: its weight was above that of any
    with pytest.raises(DataError, match=r"market m: user is masked"):
        prepare(masked, DATA)
    with pytest.raises(DataError, match=r"market m: time is masked"):
        prepare(replace(market, time=np.ma.masked_array(market.time)), DATA)


# -- which items exist -------------------------------------------------------------------------------------------------


def found_in_rows():
    """Markets as far as their own rows go, as ``load_markets`` gives them where no catalogue is named."""
    markets = {}
    for name in ("m0", "m1", "m2"):
        pairs = [(f"{name}u{user}", f"{name}{ITEMS[(user + time) % 12]}") for user in range(24) for time in range(6)]
        market = build_market(name, *map(list, zip(*pairs, strict=True)), None, None)
        markets[name] = restrict(market, stated_catalogue(market))
    return markets


def test_items_that_were_found_in_rows_are_not_declared_in_silence(tmp_path, monkeypatch):
    """A released run took them for those of a public file, and said so once everything was out."""
    pipeline = mock.Mock(return_value={})
    monkeypatch.setattr(api, "run_pipeline", pipeline)
    with mock.patch.object(api, "brings_catalogue", lambda market: market.catalogue is not None):
        FedMM(**RELEASE).fit(found_in_rows(), tmp_path / "as-it-was")
    config, markets, *_ = pipeline.call_args.args
    assert config.catalogue == "file"
    assert {found.catalogue.kind for found in markets.values()} == {"declared"}

    with pytest.raises(ConfigError, match=r"privacy\.protect: release needs privacy\.catalogue"):
        FedMM(**RELEASE).fit(found_in_rows(), tmp_path / "now")
    directory = tmp_path / "said"
    with pytest.raises(ValueError, match="market m0: its catalogue is declared, not file"):
        run_pipeline(config, markets, directory)
    assert not directory.exists()  # before anything is charged
