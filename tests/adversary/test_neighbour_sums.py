"""One user more, whose rows an enemy chose: how far each release moves before its noise, in the integers that carry it.

Whole stages of a market, from its rows on, with what was released before held fixed. Neighbours are a market without
the user, and one in which the user is counted but has no row of a public item: the number of users is public, so
whoever knows it asks the second question.
"""

from datetime import date
from functools import cache
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, contributions, release_counts, weighted_rows
from fedmm_secure.collaborative.shared_dp_svd import timed_contributions
from fedmm_secure.config import ContributionConfig
from fedmm_secure.ctr.build import private_trainer
from fedmm_secure.ctr.private_evaluation import private_candidates, release_histograms
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import build_market, history_matrix, with_rows
from fedmm_secure.data.prepare import prepare
from fedmm_secure.errors import DataError
from fedmm_secure.guarantee.score_bins import contribution
from fedmm_secure.quantization.build import initial_model, make_trainer
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer
from privacy.mechanisms import counts as count_sums
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer
from privacy.mechanisms.dp_svd import GRAM_LEVELS, integer_products
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.histograms import grid_weights
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.randomness import KEY_BYTES, LEVELS, NoiseSource
from privacy.mechanisms.shared_parts import gram_part, norm_of, rows_part
from tests.conftest import tiny

CONFIG = tiny(
    data={"min_item_train": 1},
    privacy={
        "epsilon": 8.0,
        "protect": "release",
        "pseudo_users": 0,
        "ctr": {"steps": 1, "sampling_rate": 1.0},
        "contribution": {"reference_date": "2022-01-01"},
    },
    embedding={"private": {"dim": 4, "max_items": 12}},
)
SIGMA = 0.7
ITEMS = [f"i{number:02d}" for number in range(16)]
OUTSIDE = ["I00", "i00 ", "i٠0", "zz"]  # what people would take for a public item among them
DAY = 86_400 * 10**9
DATED = CONFIG.privacy.contribution
CHOICES = [
    DATED,
    ContributionConfig(rank_decay=1.0, largest_scale=1e6),
    ContributionConfig(rows_per_user=1, reference_date=date(1900, 1, 1), time_constant_days=1e6),
    ContributionConfig(reference_date=date(2200, 1, 1), time_constant_days=1e-3, largest_scale=1e6, time_weight=1.0),
]
Rows = list[tuple[str, int, float]]


def others() -> dict[str, Rows]:
    """Rows of a dozen users, of whom one has a single row and one every item."""
    rng, found = np.random.default_rng(0), dict[str, Rows]()
    for number in range(12):
        n = 1 if number == 3 else len(ITEMS) if number == 4 else int(rng.integers(2, 9))
        chosen = rng.choice(len(ITEMS), n, replace=False)
        found[f"u{number:02d}"] = [(ITEMS[item], int(rng.integers(18_000, 19_000)) * DAY, 4.0) for item in chosen]
    return found


OTHERS = others()


def market_of(rows_by_user: dict[str, Rows], data=CONFIG.data):
    """A prepared market of public items; who has rows of other items alone is counted."""
    flat = [(user, *row) for user, rows in rows_by_user.items() for row in rows]
    users, items, times, ratings = (list(column) for column in zip(*flat, strict=True))
    catalogue = Catalogue.of("file", ITEMS)
    rows = np.array(ratings), np.array(times, dtype=np.int64)
    return prepare(build_market("m", users, items, *rows, calendar=True, catalogue=catalogue), data)


WITHOUT = market_of(OTHERS)
AWAY = [("zz", 0, 1.0)]
VICTIM = "u05+"  # among the others in order of ids, so that everybody behind has another place without
times = st.sampled_from([-(2**62), -1, 0, 18_500 * DAY, 18_500 * DAY, 19_000 * DAY, 2**62])
row = st.tuples(st.sampled_from([*ITEMS, *ITEMS, *OUTSIDE]), times, st.sampled_from([-1e300, 0.0, 5.0, 1e300]))
victims = st.one_of(
    st.lists(row, min_size=1, max_size=40),
    st.builds(lambda one, n: [one] * n, row, st.sampled_from([2, 3000])),  # the same again and again
    st.builds(lambda when: [(item, when, 5.0) for item in ITEMS], times),  # everything at one moment
)


class Fixed(NoiseSource):
    """No noise, everybody sampled, and the same draws for everybody, whoever else is there."""

    def __init__(self):
        super().__init__(bytes(KEY_BYTES), seeded=True)

    def derive(self, *purpose):
        return self

    def coins(self, probability, count):
        return np.ones(count, dtype=bool)

    def uniforms(self, count):
        return np.full(count, 0.37)

    def integers(self, bound, count):
        return np.zeros(count, dtype=np.int64)

    def discrete_gaussian(self, count, *, levels=LEVELS):
        return np.zeros(count, dtype=np.int64)


def squares(vector) -> int:
    """Exact, by Python's integers."""
    return sum(int(value) ** 2 for value in np.asarray(vector).ravel().tolist())


def in_units(values, grid):
    found = np.rint(values / grid.step)
    np.testing.assert_allclose(found * grid.step, values, rtol=1e-12)
    return found.astype(np.int64)


# -- what each stage sums, and the square of what one user may move it by ----------------------------------------------


def counts(prepared, choices=DATED):
    found = release_counts(prepared.market, prepared.split.train, choices, SIGMA, Fixed(), times=True)
    return in_units(np.concatenate([found.values, found.moments]), Grid.of(SIGMA))


RELEASED = release_counts(
    WITHOUT.market, WITHOUT.split.train, DATED, SIGMA, NoiseSource.from_seed(1), times=True
)  # for everybody, whoever is in the market


def train_matrix(prepared):
    return history_matrix(prepared.market, prepared.split.train)


def embedded(prepared):
    """With factors that were released before, of the others' rows."""
    found = DPSVDEmbedding(RELEASED, CONFIG.embedding.private)
    factors = found.release(train_matrix(WITHOUT), SIGMA, NoiseSource.from_seed(2))
    return found.set_factors(factors, train_matrix(prepared))


def gram(prepared):
    found = DPSVDEmbedding(RELEASED, CONFIG.embedding.private).release(train_matrix(prepared), SIGMA, Fixed())
    return in_units(found.gram, Grid.of(SIGMA, levels=GRAM_LEVELS))


def subspace(prepared):
    found = DPSVDEmbedding(RELEASED, CONFIG.embedding.private)
    basis, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(len(found.items_), 4)))
    rows = found.weighted(train_matrix(prepared))[:, found.items_]
    return integer_products(count_sums.merged(rows), basis, Grid.of(SIGMA))


NORM = norm_of(SIGMA, 2)
POSITION = np.where(np.arange(len(ITEMS)) % 3 == 0, -1, np.arange(len(ITEMS)))  # some are in no shared catalogue


def shared_counts(prepared):
    market, train = prepared.market, prepared.split.train
    rows = timed_contributions(market, train, POSITION, len(ITEMS), DATED, SIGMA)
    return rows_part(rows, NORM, Fixed()).values


def shared_gram(prepared):
    weights = 2.0 ** -np.arange(len(ITEMS))
    return gram_part(weighted_rows(train_matrix(prepared), weights), NORM, Fixed()).values


def quantizer(prepared, clipping="flat", entropy=0.0):
    """The noised sum of one step on everybody."""
    choices, embedding = DPSGD(SIGMA, 0.5, 1.0, clipping), embedded(prepared)
    config = CONFIG.model_copy(update={"quantizer": CONFIG.quantizer.model_copy(update={"entropy": entropy})})
    trainer = make_trainer(config, embedding, 0, PrivateSettings(choices, 1))
    return summed(lambda: trainer.private_steps(1, Fixed()))


def summed(train):
    found = []
    with mock.patch.object(DPSGDTrainer, "_set_gradients", lambda self, noised: found.append(noised.copy())):
        train()
    (total,) = found
    return total


MODEL = initial_model(CONFIG, 0)


def ctr(prepared):
    made = private_trainer(prepared, embedded(prepared), CONFIG)
    return summed(lambda: made.train_with(MODEL, 0, DPSGD(SIGMA, 0.3, 1.0), Fixed()))


def trained():
    return private_trainer(WITHOUT, embedded(WITHOUT), CONFIG).train_with(
        MODEL, 0, DPSGD(SIGMA, 0.3, 1.0), NoiseSource.from_seed(4)
    )


PUBLISHED = trained()
PER_POSITIVE = CONFIG.data.negatives_per_positive


def figures(prepared):
    made = private_trainer(prepared, embedded(prepared), CONFIG)
    weights = made.negatives().weights
    pairs = private_candidates(prepared.market, prepared.split.test, weights, per_positive=PER_POSITIVE, noise=Fixed())
    scores = PUBLISHED.model.predict_alone(made.builder(MODEL)(pairs.user, pairs.item))
    found = release_histograms(pairs, [scores, scores], SIGMA, Fixed(), per_positive=PER_POSITIVE)
    return np.rint(found.counts * grid_weights(SIGMA, 2, contribution(PER_POSITIVE))[:, None]).astype(np.int64)


BOUND = Grid.of(SIGMA).squared_bound
STAGES = {
    **{f"counts {number}": (lambda p, c=choices: counts(p, c), BOUND) for number, choices in enumerate(CHOICES)},
    "gram": (gram, Grid.of(SIGMA, levels=GRAM_LEVELS).squared_bound),
    "subspace": (subspace, BOUND),
    "shared counts": (shared_counts, NORM**2),
    "shared gram": (shared_gram, NORM**2),
    "quantizer": (quantizer, BOUND),
    "quantizer, automatic": (lambda p: quantizer(p, "automatic"), BOUND),
    "quantizer, entropy": (lambda p: quantizer(p, entropy=0.1), BOUND),
    "ctr": (ctr, BOUND),
    "figures": (figures, BOUND),
}
NOBODY = dict.fromkeys(OTHERS, AWAY)  # counted, as everybody else


@cache
def without_the_user(name, counted):
    """What a stage sums without the user's rows, and without anybody's."""
    stage, user = STAGES[name][0], {VICTIM: AWAY} if counted else {}
    return stage(market_of({**OTHERS, **user})), stage(market_of({**NOBODY, VICTIM: AWAY}))


def alone(name, rows):
    """What a stage sums of a user of whom alone there are rows."""
    return STAGES[name][0](market_of({**NOBODY, VICTIM: rows}))


@pytest.mark.parametrize("name", STAGES)
def test_a_user_moves_a_sum_by_own_integers_alone_which_the_noise_is_for(name):
    """To the last unit, whatever the rows, and whether or not the user is counted without them."""
    stage, bound = STAGES[name]

    @given(rows=victims)
    @settings(max_examples=6, deadline=None)
    def search(rows):
        whole, own = stage(market_of({**OTHERS, VICTIM: rows})), alone(name, rows)
        assert squares(own) <= bound
        for counted in (False, True):
            others, nothing = without_the_user(name, counted)
            np.testing.assert_array_equal(whole - others, own)
            assert not nothing.any()

    search()


# -- what would break it, as a control ---------------------------------------------------------------------------------

EVERYTHING = [(item, 2**62, 5.0) for item in ITEMS]


def test_it_finds_a_gradient_of_users_without_rows():
    """As it was: who is counted and has no row has a gradient, in whose place that of the rows steps."""

    def as_it_was(self, model, batch):
        return model(batch, self.settings.weights.soft_temperature).total(self.settings.weights)

    with mock.patch.object(QuantizerTrainer, "_per_example", as_it_was):
        whole, counted = (quantizer(market_of({**OTHERS, VICTIM: rows})) for rows in (EVERYTHING, AWAY))
    assert squares(whole - counted) > 2 * BOUND


def test_it_finds_dates_that_come_from_everybodys_rows():
    """The split that a budget refuses: one user's rows move those of others from test to training."""
    late = [(item, 19_001 * DAY, 5.0) for item in ITEMS]
    whole, without = (
        counts(market_of(rows, CONFIG.data.model_copy(update={"split": "global-date"})), CHOICES[1])
        for rows in ({**OTHERS, VICTIM: late}, OTHERS)
    )
    assert squares(whole - without) > 2 * BOUND


def test_rows_of_a_market_made_by_hand_have_to_be_in_order():
    """As it was: of rows in another order, the latest of one user follows from how many rows another has."""
    market = market_of({**OTHERS, VICTIM: EVERYTHING}).market
    turned = with_rows(market, np.arange(market.n_rows)[::-1])
    without = with_rows(turned, np.flatnonzero(market.user_ids[turned.user] != VICTIM))
    first = market.user_ids == "u06"
    weights = [contributions(rows, np.arange(rows.n_rows), DATED).toarray()[first] for rows in (turned, without)]
    assert not np.array_equal(*weights)  # of another user than the one who left
    with pytest.raises(DataError, match=r"market m: row 1 \(from 0\) is not in order"):
        prepare(turned, CONFIG.data)


# -- items that are found, and codes that are randomised ---------------------------------------------------------------

SELECTION = PartitionSelection(3, SIGMA, 1e-3)


def weights(rows_by_user):
    """By id of an item, what users give to it."""
    whole = market_of(rows_by_user).whole
    user, item = (values[whole.split.train] for values in (whole.market.user, whole.market.item))
    total = SELECTION.sums(user, item, whole.market.n_items)
    return {str(whole.market.item_ids[at]): int(total[at]) for at in np.flatnonzero(total)}


@given(rows=victims)
@settings(max_examples=20, deadline=None)
def test_a_user_gives_weight_to_few_items_and_changes_nobody_elses(rows):
    whole, others = weights({**OTHERS, VICTIM: rows}), weights(OTHERS)
    own = {item: found - others.get(item, 0) for item, found in whole.items() if found != others.get(item, 0)}
    assert whole.keys() >= others.keys()
    assert len(own) <= SELECTION.items_per_user
    assert squares(list(own.values())) <= SELECTION.grid.squared_bound


@given(rows=victims)
@settings(max_examples=10, deadline=None)
def test_codes_of_others_stay_what_they_are(rows):
    found = []
    for there in ({**OTHERS, VICTIM: rows}, OTHERS):
        prepared = market_of(there)
        codes = assign_codes(MODEL, embedded(prepared).user_factors_, np.zeros((0, 4))).user
        found.append(codes[prepared.market.user_ids != VICTIM])
    np.testing.assert_array_equal(*found)
