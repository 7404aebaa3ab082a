"""A catalogue that was found privately: from training rows, large enough, and all that a market then has."""

import numpy as np
import pytest

from fedmm_secure.config import DiscoveryConfig
from fedmm_secure.data.discovery import FEWEST_ITEMS, check_discovered, discover
from fedmm_secure.data.market import build_market
from fedmm_secure.data.prepare import prepare, within
from fedmm_secure.errors import DataError
from fedmm_secure.guarantee.mechanisms import partition_selection
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny

EASY = PartitionSelection(8, 0.5, 1e-3)


def market(n_users=300, n_items=60, per_user=8, own="x\ty", name="m"):
    """Everyone has ``per_user`` of a few items, an item of their own, and one whose id has a tab."""
    rng = np.random.default_rng(0)
    users, items = [], []
    for user in range(n_users):
        chosen = rng.choice(n_items, per_user, replace=False)
        users += [f"u{user:03d}"] * (per_user + 2)
        items += [f"own-{user:03d}", own, *(f"i{item:03d}" for item in chosen)]
    return build_market(name, users, items, None, None)


def everything(found):
    return np.arange(found.n_rows)


def test_common_items_are_found_and_a_users_own_are_not():
    found = market()
    catalogue, spare = discover(found, everything(found), EASY, NoiseSource.from_seed(0), spare=5)
    assert spare.shape == (5,)
    assert catalogue.kind == "discovered"
    assert catalogue.items.tolist() == [f"i{item:03d}" for item in range(60)]


def test_an_id_that_no_catalogue_can_hold_is_not_published_however_common():
    found = market(own="plain")
    rows = everything(found)
    wide = PartitionSelection(10, 0.5, 1e-3)
    assert "plain" in discover(found, rows, wide, NoiseSource.from_seed(0))[0].items
    found = market(own="x\ty")
    assert "x\ty" not in discover(found, rows, wide, NoiseSource.from_seed(0))[0].items


def test_only_the_given_rows_are_looked_at():
    found = market()
    early = np.flatnonzero(found.item_ids[found.item] != "i007")
    assert "i007" not in discover(found, early, EASY, NoiseSource.from_seed(0))[0].items


def test_too_few_items_end_the_run_with_one_line():
    found = market(n_items=30, name="in")
    with pytest.raises(DataError, match=r"market in: privacy.catalogue: discovered: only 30 items .* of 50") as caught:
        check_discovered(found.name, discover(found, everything(found), EASY, NoiseSource.from_seed(0))[0])
    assert "\n" not in str(caught.value)
    assert FEWEST_ITEMS == 50


def test_a_market_goes_on_with_what_was_found():
    config = tiny(data={"synthetic": {"markets": 3, "users": 300, "items": 120}}).data
    prepared = prepare(market(), config)
    catalogue, _ = discover(prepared.whole.market, prepared.whole.split.train, EASY, NoiseSource.from_seed(1))
    narrowed = within(prepared.whole, catalogue, config)
    assert narrowed.market.item_ids.tolist() == catalogue.items.tolist()
    assert narrowed.whole.test.sha256() == prepared.whole.test.sha256()
    assert len(narrowed.complete(np.full(len(narrowed.test), 0.25))) == len(prepared.whole.test)


def test_the_threshold_gets_its_share_of_delta():
    selection = partition_selection(DiscoveryConfig(items_per_user=4, delta_share=0.25), 1.5, 8e-4)
    assert selection == PartitionSelection(4, 1.5, 2e-4)
