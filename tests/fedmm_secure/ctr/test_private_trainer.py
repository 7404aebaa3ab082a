"""The released CTR model: what it may read, user by user, and what catches it reading more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmm_secure.ctr.bags import make_bags
from fedmm_secure.ctr.build import private_trainer
from fedmm_secure.ctr.dataset import Labelled, labelled
from fedmm_secure.ctr.features import Features
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR, bag_loss
from fedmm_secure.ctr.private_trainer import PrivateTrainer
from fedmm_secure.data.candidates import Candidates, Pool
from fedmm_secure.guarantee.expected_arrays import ctr_arrays
from fedmm_secure.guarantee.published_arrays import read_tensors
from fedmm_secure.quantization.build import initial_model
from fedmm_secure.storage.encoding import nested, tensors_bytes
from fedmm_secure.storage.files import torch_bytes
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer
from privacy.mechanisms.per_example import FunctionalGradients
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny
from tests.fedmm_secure.collaborative.test_dp_svd import changed_rows, embedding
from tests.noise import silent

CONFIG = tiny(
    privacy={
        "epsilon": 8.0,
        "protect": "release",
        "ctr": {"steps": 4},
        "contribution": {"reference_date": "2022-01-01"},
    },
    embedding={"private": {"dim": 4, "max_items": 20}},
)
DATED = CONFIG.privacy.contribution
QUANTIZER = initial_model(CONFIG, 0)


def bench(prepared, config=CONFIG):
    return private_trainer(prepared, embedding(prepared, dated=DATED), config)


def bags_of(prepared, config=CONFIG, given=None):
    """Bags of a market, its private releases held fixed."""
    made = private_trainer(prepared, given or embedding(prepared, dated=DATED), config)
    model = PrivateCTR("deepfm", made.builder(QUANTIZER, made.history).schema(), neural_choices(config.ctr), 0)
    return made._bags(model, QUANTIZER, NoiseSource.from_seed(3))


def test_a_bag_is_bounded_whatever_its_user_did(tiny_markets):
    prepared = tiny_markets["m0"]
    bags = bags_of(prepared)
    width = 3 * (1 + CONFIG.data.negatives_per_positive)  # two training rows, one validation row, with negatives
    assert bags.mask.shape == (prepared.market.n_users, width)
    assert bags.mask.sum(dim=1).max() <= width
    assert 0.1 < (bags.label.sum() / bags.mask.sum()) < 0.3


def test_a_user_with_very_many_rows_keeps_the_first_that_fit():
    user = np.array([0] * 1000 + [1] * 2)
    examples = Labelled(Features(np.zeros((1002, 1), dtype=np.int64), np.zeros((1002, 2))), np.ones(1002))
    bags = make_bags(3, 10, [(user, examples)])
    assert bags.mask.sum(dim=1).tolist() == [10, 2, 0]


def test_removing_one_user_leaves_every_other_bag_as_it_was(tiny_markets):
    """Positives and features; negatives are drawn independently for each row."""
    prepared = tiny_markets["m0"]
    given = embedding(prepared, dated=DATED)
    keep = prepared.market.user != 5
    market = replace(
        prepared.market, **{f: getattr(prepared.market, f)[keep] for f in ("user", "item", "rating", "time")}
    )
    position = np.cumsum(keep) - 1
    parts = {
        name: position[rows[keep[rows]]]
        for name, rows in vars(prepared.split).items()
        if name in ("train", "valid", "test")
    }
    without = replace(prepared, market=market, split=replace(prepared.split, **parts))
    whole, less = bags_of(prepared, given=given), bags_of(without, given=given)
    assert less.mask[5].sum() == 0
    for user in (4, 6, 30):
        positives = [bags.numbers[user][(bags.mask[user] * bags.label[user]) > 0] for bags in (whole, less)]
        torch.testing.assert_close(*positives)


def test_bag_gradients_equal_single_backward_passes_and_ignore_padding(tiny_markets):
    bags = bags_of(tiny_markets["m0"])
    network = NeuralCTR("deepfm", (8, 8, 8, 8), bags.numbers.shape[2], dim=4, hidden=(8,), dropout=0.0,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    losses = FunctionalGradients(network, bag_loss)(tuple(part[:6] for part in bags.tensors()))
    together = {name: p.grad_sample.clone() for name, p in network.named_parameters()}
    for index in range(6):
        kept = bags.mask[index] > 0
        network.zero_grad()
        logits = network(bags.categories[index][kept], bags.numbers[index][kept])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, bags.label[index][kept])
        loss.backward()
        assert losses[index] == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(together[name][index], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def update(bags, choices):
    """The summed update of one step on everybody, no noise."""
    network = NeuralCTR("deepfm", (8, 8, 8, 8), bags.numbers.shape[2], dim=4, hidden=(8,), dropout=0.0,
                        generator=torch.Generator().manual_seed(0))  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
    n = len(bags.mask)
    with silent():
        DPSGDTrainer(FunctionalGradients(network, bag_loss), optimizer, choices, n).steps(
            bags.tensors(), 1, NoiseSource.from_seed(0)
        )
    return (before - torch.cat([p.detach().flatten() for p in network.parameters()])) * n


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("largest", [8, 512])
def test_one_user_moves_the_update_by_at_most_the_clipping_norm(tiny_markets, clipping, largest):
    bags = bags_of(tiny_markets["m0"])
    choices = DPSGD(1.0, 0.05, 1.0, clipping, largest)
    whole = update(bags, choices)
    for user in range(12):
        masked = replace(bags, mask=bags.mask.clone())
        masked.mask[user] = 0.0
        assert float((whole - update(masked, choices)).norm()) <= 0.05 * 1.001


def test_blocks_change_nothing_but_rounding(tiny_markets):
    bags = bags_of(tiny_markets["m0"])
    left, right = (update(bags, DPSGD(1.0, 0.05, 1.0, "flat", size)) for size in (8, 512))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def negatives_ignore_raw_counts(prepared):
    """Whether the distribution of training negatives stays the same when all raw rows change and releases do not."""
    given = embedding(prepared, dated=DATED)
    found = [private_trainer(rows, given, CONFIG).negatives() for rows in (prepared, changed_rows(prepared))]
    whole = all(len(pool.items) == prepared.market.n_items for pool in found)
    return whole and np.array_equal(found[0].weights, found[1].weights)


def test_training_negatives_are_drawn_from_the_whole_catalogue(tiny_markets):
    assert negatives_ignore_raw_counts(tiny_markets["m0"])


def test_popularity_negatives_follow_noisy_counts(tiny_markets):
    config = tiny(
        data={"negatives": "popularity"},
        privacy={"epsilon": 8.0, "protect": "release"},
        embedding={"private": {"dim": 4, "max_items": 20}},
    )
    made = bench(tiny_markets["m0"], config)
    counts = np.maximum(made.embedding.counts.values, 0)
    np.testing.assert_allclose(made.negatives().weights, counts / counts.sum())


def test_the_check_catches_negatives_from_raw_counts(tiny_markets, monkeypatch):
    def leaky(self):
        market, train = self.prepared.market, self.prepared.split.train
        counts = np.bincount(market.item[train], minlength=market.n_items) + 1.0
        return Pool(np.arange(market.n_items), counts / counts.sum(), 1.0)

    monkeypatch.setattr(PrivateTrainer, "negatives", leaky)
    assert not negatives_ignore_raw_counts(tiny_markets["m0"])


def standardisation(prepared, given):
    choices = DPSGD(1.0, 0.3, 0.3)
    model = private_trainer(prepared, given, CONFIG).train_with(QUANTIZER, 0, choices, NoiseSource.from_seed(0)).model
    return np.concatenate([model._centre, model._spread])


def standardisation_ignores_raw_rows(prepared):
    given = embedding(prepared, dated=DATED)
    return np.array_equal(standardisation(prepared, given), standardisation(changed_rows(prepared), given))


def test_standardisation_comes_from_private_releases(tiny_markets):
    assert standardisation_ignores_raw_rows(tiny_markets["m0"])


def test_the_check_catches_standardisation_by_raw_statistics(tiny_markets, monkeypatch):
    def leaky(self, quantizer, seed):
        rows = self.prepared.split.train
        pairs = Candidates(self.prepared.market.user[rows], self.prepared.market.item[rows], np.ones(len(rows)))
        return labelled(self.builder(quantizer, self.history), pairs)

    monkeypatch.setattr(PrivateTrainer, "_pseudo_examples", leaky)
    assert not standardisation_ignores_raw_rows(tiny_markets["m0"])


@pytest.mark.parametrize("kind", ["deepfm", "dcnv2", "logistic"])
def test_every_kind_trains_and_predicts(tiny_markets, kind):
    config = tiny(
        privacy={"epsilon": 8.0, "protect": "release", "ctr": {"steps": 20}},
        embedding={"private": {"dim": 4, "max_items": 20}},
        ctr={"model": kind},
    )
    prepared = tiny_markets["m0"]
    choices, noise = DPSGD(0.5, 0.3, 0.5), NoiseSource.from_seed(1)
    trained = bench(prepared, config).train_with(QUANTIZER, 0, choices, noise, spare=3)
    model, builder = trained.model, trained.builder
    assert trained.steps.spare.shape == (20, 3)
    found = model.predict(builder(prepared.test.user, prepared.test.item))
    assert ((found > 0) & (found < 1)).all()
    copy = PrivateCTR(kind, builder.schema(), neural_choices(config.ctr), 5)
    copy.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(copy.predict(builder(prepared.test.user, prepared.test.item)), found)


@pytest.mark.parametrize("kind", ["logistic", "deepfm", "dcnv2"])
@pytest.mark.parametrize("choices", [{"hidden": []}, {"features": ["user_codes", "item_codes"]}])
def test_a_network_without_layers_or_numbers_trains_and_is_read_as_it_was_written(tiny_markets, kind, choices):
    """Its spending is planned, and what it publishes is read by name and shape, and written again to the byte."""
    prepared, settings = tiny_markets["m0"], {"model": kind, **choices}
    ctr = CONFIG.ctr.model_copy(update={name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    config = CONFIG.model_copy(update={"ctr": ctr})
    found = bench(prepared, config).train_with(QUANTIZER, 0, DPSGD(1.0, 0.3, 1.0), NoiseSource.from_seed(1))
    written = found.model.write()
    arrays = read_tensors(written, ctr_arrays(config, prepared.market.n_items))
    assert tensors_bytes(nested(arrays, "network")) == written


def test_labels_from_ratings_train_too(tiny_markets):
    config = tiny(
        data={"label": "like", "min_item_train": 3},
        privacy={"epsilon": 8.0, "protect": "release"},
        embedding={"private": {"dim": 4, "max_items": 20}},
    )
    bags = bags_of(tiny_markets["m0"], config)
    assert bags.mask.shape[1] == 3
    assert 0 < bags.label.sum() < bags.mask.sum()


@pytest.mark.parametrize("kind", ["deepfm", "dcnv2", "logistic"])
def test_a_score_is_its_pairs_alone_whoever_is_beside_it(tiny_markets, kind):
    """To the last bit, of a model read from a file; the plain prediction agrees to rounding."""
    config = tiny(
        privacy={"epsilon": 8.0, "protect": "release"},
        embedding={"private": {"dim": 4, "max_items": 20}},
        ctr={"model": kind},
    )
    prepared = tiny_markets["m0"]
    made = bench(prepared, config)
    trained = made.train_with(QUANTIZER, 0, DPSGD(0.5, 0.3, 0.5), NoiseSource.from_seed(1)).model
    model, builder = made.load(torch_bytes(trained.state_dict()), Path("ctr.pt"), QUANTIZER, 0)
    user, item = prepared.test.user, prepared.test.item
    whole = model.predict_alone(builder(user, item))
    np.testing.assert_allclose(whole, trained.predict(builder(user, item)), rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(user))[:97]
    np.testing.assert_array_equal(model.predict_alone(builder(user[order], item[order])), whole[order])
    assert len(model.predict_alone(builder(user[:0], item[:0]))) == 0
