"""One user more under odd configurations, among so many others that they fill several blocks.

The stages, and what a user may move them by, are those of ``test_neighbour_sums``.
"""

from unittest import mock

import numpy as np
import pytest

from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.ctr.build import private_trainer
from fedmm_secure.ctr.features import Features
from fedmm_secure.ctr.models.private import LARGEST_NUMBER, PrivateCTR
from fedmm_secure.quantization.build import initial_model
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.randomness import NoiseSource
from tests.adversary import test_neighbour_sums as sums
from tests.conftest import tiny

N = 290  # users: more than a block of the CTR model's has slots, and not a whole number of lanes
ONE = {"steps": 1, "sampling_rate": 1.0}
RELEASE = {"epsilon": 8.0, "protect": "release", "contribution": {"reference_date": "2022-01-01"}, "ctr": ONE}
CONFIGURATIONS = {
    "codes alone, nothing normalised": {
        "data": {"negatives": "popularity", "negatives_per_positive": 7},
        "embedding": {"private": {"dim": 9, "max_items": 12, "factor_threshold": 0.0}},
        "quantizer": {"normalise_latent": False, "entropy": 5.0, "temperature": 0.01, "global_radius": 100.0},
        "ctr": {"model": "dcnv2", "features": ["user_codes", "item_codes"], "hidden": [], "dim": 3},
        "privacy": {**RELEASE, "pseudo_users": 0},
    },
    "ids and times, odd sizes": {
        "data": {"negatives_per_positive": 1},
        "embedding": {"private": {"dim": 3, "max_items": 16, "popularity_exponent": 1.0}},
        "quantizer": {"latent_dim": 7, "hidden_dim": 33, "global_codes": 13, "local_codes": 5, "commitment": 50.0},
        "ctr": {"model": "deepfm", "features": ["item_id", "counts", "recency"], "hidden": [5], "refit": False},
        "privacy": {**RELEASE, "pseudo_users": 200, "ctr": {**ONE, "rows_per_user": 6, "average": False}},
    },
    "likes": {
        "data": {"label": "like"},
        "embedding": {"private": {"dim": 2, "max_items": 10}},
        "quantizer": {"global_codes": 2, "local_codes": 2, "commitment": 0.0},
        "ctr": {"model": "logistic", "features": ["scores", "code_affinity"]},
        "privacy": {**RELEASE, "pseudo_users": 0},
    },
}


def others():
    rng, found = np.random.default_rng(7), {}
    for number in range(N):
        chosen = rng.choice(len(sums.ITEMS), int(rng.integers(1, 9)), replace=False)
        days, ratings = rng.integers(18_000, 19_000, len(chosen)), rng.integers(1, 6, len(chosen))
        rows = zip(chosen.tolist(), days.tolist(), ratings.tolist(), strict=True)
        found[f"u{number:03d}"] = [(sums.ITEMS[item], day * sums.DAY, float(rating)) for item, day, rating in rows]
    return found


OTHERS = others()
NOBODY = dict.fromkeys(OTHERS, sums.AWAY)


def set_up(patch, name):
    """The stages of ``test_neighbour_sums`` under another configuration; their names."""
    config = tiny(**CONFIGURATIONS[name])
    patch.setattr(sums, "CONFIG", config)
    patch.setattr(sums, "DATED", config.privacy.contribution)
    patch.setattr(sums, "MODEL", initial_model(config, 1))
    patch.setattr(sums, "PER_POSITIVE", config.data.negatives_per_positive)
    without = market_of(OTHERS)
    patch.setattr(sums, "WITHOUT", without)
    rows = without.market, without.split.train, config.privacy.contribution
    patch.setattr(sums, "RELEASED", release_counts(*rows, sums.SIGMA, NoiseSource.from_seed(1), times=True))
    if config.data.label != "click":
        return "gram", "quantizer", "ctr"
    made = private_trainer(without, sums.embedded(without), config)
    published = made.train_with(sums.MODEL, 0, DPSGD(sums.SIGMA, 0.3, 1.0), NoiseSource.from_seed(4))
    patch.setattr(sums, "PUBLISHED", published)
    return "gram", "quantizer", "ctr", "figures"


def market_of(rows):
    return sums.market_of(rows, sums.CONFIG.data)


def moved(stage, rows, user=f"u{N // 2:03d}+"):
    """What a user changes of a sum over all, who is counted without them too; and what the user adds alone."""
    compute = sums.STAGES[stage][0]
    found = [
        compute(market_of(there))
        for there in ({**OTHERS, user: rows}, {**OTHERS, user: sums.AWAY}, {**NOBODY, user: rows})
    ]
    return found[0] - found[1], found[2]


@pytest.mark.parametrize("rows", [sums.EVERYTHING, [(sums.ITEMS[0], 18_500 * sums.DAY, 5.0), ("zz", 0, 1.0)] * 20])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_user_moves_a_sum_by_own_integers_alone(name, rows, monkeypatch):
    for stage in set_up(monkeypatch, name):
        whole, own = moved(stage, rows)
        np.testing.assert_array_equal(whole, own, err_msg=stage)
        assert sums.squares(own) <= sums.STAGES[stage][1]


def test_it_finds_numbers_that_are_standardised_by_everybodys(monkeypatch):
    """A control: as features are commonly scaled, one user's rows move the gradients of all."""

    def by_raw_statistics(self, features):
        numbers = (features.numbers - features.numbers.mean(0)) / np.maximum(features.numbers.std(0), 1e-3)
        return Features(features.categories, np.clip(numbers, -LARGEST_NUMBER, LARGEST_NUMBER))

    set_up(monkeypatch, "ids and times, odd sizes")
    with mock.patch.object(PrivateCTR, "standardise", by_raw_statistics):
        whole, own = moved("ctr", sums.EVERYTHING)
    assert not np.array_equal(whole, own)
    assert sums.squares(whole) > sums.BOUND
