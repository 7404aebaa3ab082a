"""Attack: a catalogue that was found in private rows. Who sees how long a publication is sees a user's rare item.

By whoever sees anything published, without any computation. The broken copy takes the items found, as the first version
did; the product takes a public file, or finds items privately.
"""

import math

import numpy as np
import pytest

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, release_counts
from fedmm_secure.config import config_from_data
from fedmm_secure.data.discovery import check_discovered, discover
from fedmm_secure.data.market import history_matrix
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import DataError
from fedmm_secure.randomness import noise_source
from fedmm_secure.results.metrics import describe, sizes, stated_catalogues
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import TINY

MARKETS = ("m0", "m1", "m2")
TARGET = "the-user"
RARE = "rare-item"


def rows(with_rare_item):
    """Rows ``(user, item)`` of one market; the target has an item of their own, or another user's items."""
    rng = np.random.default_rng(3)
    found = [(f"u{user:02d}", f"i{item:02d}") for user in range(60) for item in rng.choice(20, 8, replace=False)]
    found += [(TARGET, f"i{item:02d}") for item in range(4)]
    return found + [(TARGET, RARE)] * with_rare_item


def old_release(pairs, noise):
    """The first version in small: one noisy count for each item that is found in the rows."""
    items = sorted({item for _, item in pairs})
    counts = np.array([sum(item == found for _, found in pairs) for item in items], dtype=np.float64)
    return counts + noise.normal(0, 5, len(items))


def guess(length, lengths):
    return lengths.index(length)


def test_the_length_of_what_the_first_version_published_tells_the_rare_item_from_nothing():
    """However much noise: the noise is on the counts, and the length has none."""
    rng = np.random.default_rng(0)
    lengths = [len(old_release(rows(False), rng)), len(old_release(rows(True), rng))]
    truth = rng.integers(0, 2, 100)
    guesses = [guess(len(old_release(rows(bool(coin)), rng)), lengths) for coin in truth]
    assert guesses == truth.tolist()


@pytest.fixture
def prepared(tmp_path):
    """A function from whether the rare item is there, and the kind of catalogue, to the product's markets."""

    def load(with_rare_item, kind):
        folder = tmp_path / f"{kind}-{with_rare_item}"
        folder.mkdir()
        markets = {}
        for name in MARKETS:
            pairs = [(f"{name}-{user}", item) for user, item in rows(with_rare_item and name == "m0")]
            text = "user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs)
            (folder / f"{name}.csv").write_text(text)
            (folder / f"{name}.txt").write_text("".join(f"i{item:02d}\n" for item in range(25)))
            markets[name] = {"path": f"{name}.csv", "user": "user", "item": "item"}
            if kind == "file":
                markets[name]["catalogue"] = f"{name}.txt"
        privacy = {**TINY["privacy"], "epsilon": 8.0, "catalogue": kind, "noise_seed": 0}
        config = config_from_data(
            {**TINY, "data": {"root": str(folder), "markets": markets}, "privacy": privacy}, source="test"
        )
        return config, prepare_markets(config.data)["m0"]

    return load


def published(config, market):
    """What of a market has a length that follows from its items, counts and factors; and the ids, in their order."""
    noise = noise_source(0, "test")
    counts = release_counts(market.market, market.split.train, config.privacy.contribution, 1.0, noise)
    embedding = DPSVDEmbedding(counts, config.embedding.private)
    matrix = history_matrix(market.market, market.split.train)
    embedding.set_factors(embedding.release(matrix, 1.0, noise), matrix)
    return counts.values.shape, embedding.item_factors_.shape, tuple(market.market.item_ids)


def test_declared_catalogues_still_show_it_which_is_why_every_report_says_so(prepared):
    without, with_item = (published(*prepared(rare, "declared")) for rare in (False, True))
    assert (len(without[2]), len(with_item[2])) == (20, 21)


def test_a_catalogue_file_shows_nothing_of_it(prepared):
    without, with_item = (published(*prepared(rare, "file")) for rare in (False, True))
    assert without == with_item
    assert len(without[2]) == 25  # five items that nobody has are there too


def test_the_rows_left_out_are_not_in_what_a_run_states(prepared):
    (config, without), (_, with_item) = (prepared(rare, "file") for rare in (False, True))
    assert stated_catalogues(config, {"m0": without}) == stated_catalogues(config, {"m0": with_item})
    assert "outside" not in " ".join(sizes(with_item))
    assert describe(with_item)["rows_outside_catalogue"] == 1  # the private log alone


def chance_of_being_published(selection, user, item, n_items, target):
    """Exactly: the sampler's law is as fine as the normal law at half steps, to 1e-12."""
    excess = selection.grid_threshold + 0.5 - selection.sums(user, item, n_items)[target]
    return 0.5 * math.erfc(excess / scale(selection.grid.levels) / math.sqrt(2))


@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_a_private_discovery_shows_it_with_probability_delta_at_most(prepared, delta):
    _, market = prepared(True, "discovered")
    whole, train = market.whole.market, np.arange(market.whole.market.n_rows)
    selection = PartitionSelection(4, 0.7, delta)
    target = whole.item_ids.tolist().index(RARE)
    user, item = whole.user[train], whole.item[train]
    assert RARE in whole.item_ids
    assert chance_of_being_published(selection, user, item, whole.n_items, target) <= delta


def test_a_discovery_of_many_draws_never_shows_it_and_finds_the_common_items(prepared):
    """300 draws at a threshold that fails with 1e-9: false alarm 3e-7."""
    _, market = prepared(True, "discovered")
    whole = market.whole.market
    selection = PartitionSelection(8, 0.5, 1e-9)
    target = whole.item_ids.tolist().index(RARE)
    source = NoiseSource.from_seed(1)
    lengths = set()
    for index in range(300):
        found = selection.select(whole.user, whole.item, whole.n_items, source.derive(index)).items
        assert target not in found
        lengths.add(len(found))
    assert max(lengths) == 20


def test_a_discovery_too_small_to_run_with_is_refused_in_words_that_follow_from_the_release(prepared):
    _, market = prepared(True, "discovered")
    whole = market.whole
    selection = PartitionSelection(8, 0.5, 1e-9)
    catalogue, _ = discover(whole.market, whole.split.train, selection, NoiseSource.from_seed(1))
    with pytest.raises(DataError, match="only 20 items have enough users") as caught:
        check_discovered(whole.market.name, catalogue)
    assert RARE not in str(caught.value)
