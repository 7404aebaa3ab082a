import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.shared import SharedStatistics
from fedmm_secure.config import EmbeddingConfig
from fedmm_secure.ctr import dataset
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.dataset import ExampleSource, Labelled, latest_folds, random_folds, training_part
from fedmm_secure.ctr.features import FEATURE_GROUPS, FeatureBuilder, Features, FeatureSchema
from fedmm_secure.ctr.histories import History
from fedmm_secure.ctr.models.averaged import AveragedModel
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.interactions import FieldAttention, TwoStreams
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel
from fedmm_secure.ctr.recipes import configured_recipe
from fedmm_secure.quantization.build import local_model
from fedmm_secure.quantization.codes import Codes
from tests.conftest import tiny


@pytest.fixture(scope="module")
def prepared(tiny_markets):
    return tiny_markets["m0"]


def some_codes(market, seed=0):
    rng = np.random.default_rng(seed)
    return Codes(rng.integers(0, 8, (market.n_users, 2)), rng.integers(0, 8, (market.n_items, 2)))


def elsewhere(market, seed=0):
    """What invented other markets know: half of the items, and a Gram matrix of a few of those."""
    rng, n = np.random.default_rng(seed), market.n_items
    position = np.where(np.arange(n) % 2, np.arange(n), -1)
    met = rng.integers(0, 2, (50, 8)).astype(float)
    return SharedStatistics(
        position, met.sum() * rng.random(n), 18_000 + rng.random(n), np.arange(1, 17, 2), met.T @ met
    )


def test_schema_names_every_column(prepared):
    market, train = prepared.market, prepared.split.train
    history = History(market, train, prepared.pool, elsewhere(market))
    builder = FeatureBuilder(FEATURE_GROUPS, history, some_codes(market), (8, 8))
    features, schema = builder(prepared.test.user, prepared.test.item), builder.schema()
    assert features.categories.shape == (len(prepared.test), len(schema.category_names))
    assert features.numbers.shape == (len(prepared.test), len(schema.number_names))
    assert len(set(schema.number_names)) == len(schema.number_names)
    assert (features.categories < np.array(schema.cardinalities)).all()
    assert np.isfinite(features.numbers).all()


def test_features_do_not_change_when_a_row_outside_the_history_does(prepared):
    """Leak test: validation and test rows, and held-out rows, must not show in features."""
    market = prepared.market
    train = prepared.split.train
    folds = latest_folds(market, train, 1) + random_folds(market, train, 1, np.random.default_rng(0))
    for fold in folds:
        changed = market.item.copy()
        outside = np.setdiff1d(np.arange(market.n_rows), fold.kept)
        changed[outside] = np.random.default_rng(1).permutation(changed[outside])
        other = type(market)(**{**vars(market), "item": changed})
        left, right = (
            FeatureBuilder(
                FEATURE_GROUPS, History(m, fold.kept, prepared.pool, elsewhere(m)), some_codes(market), (8, 8)
            )(prepared.test.user, prepared.test.item)
            for m in (market, other)
        )
        np.testing.assert_array_equal(left.numbers, right.numbers)


def test_code_features_need_codes(prepared):
    history = History(prepared.market, prepared.split.train, prepared.pool)
    with pytest.raises(ValueError, match="need codes"):
        FeatureBuilder(("user_codes",), history)


def test_folds_hold_out_one_row_per_user_and_keep_the_others(prepared):
    market, train = prepared.market, prepared.split.train
    last, second = latest_folds(market, train, 2)
    (random,) = random_folds(market, train, 1, np.random.default_rng(0))
    for fold in (last, second, random):
        assert len(np.unique(market.user[fold.held_out])) == len(fold.held_out)
        assert not np.isin(fold.held_out, fold.kept).any()
    for user in range(market.n_users):
        rows = train[market.user[train] == user]
        if len(rows) >= 3:
            assert rows[-1] in last.held_out
            assert rows[-2] in second.held_out
            np.testing.assert_array_equal(second.kept[market.user[second.kept] == user], rows[:-2])
        if len(rows) == 1:
            assert rows[0] in random.kept


def test_training_negatives_ignore_what_is_unseen(prepared):
    """An item that the user meets later may be a training negative: excluding it would leak the future."""
    market, split = prepared.market, prepared.split
    builder = FeatureBuilder(("item_id", "user_id"), History(market, split.train, prepared.pool))
    part = training_part(
        market,
        split.train,
        split.train,
        prepared.pool,
        builder,
        per_positive=4,
        make_rng=np.random.default_rng,
        fresh=True,
    )
    later = {(market.user[row], market.item[row]) for row in np.concatenate([split.valid, split.test])}
    seen = {(market.user[row], market.item[row]) for row in split.train}
    drawn = part(0)
    negatives = {tuple(pair) for pair in drawn.features.categories[drawn.label == 0].tolist()}
    assert not negatives & seen
    assert negatives & later
    assert not np.array_equal(part(0).features.categories, part(1).features.categories)


SCHEMA = FeatureSchema(("a", "b"), (12, 12), ("x",))


def crossed(n, seed):
    """Labels that only the interaction of two categories explains."""
    rng = np.random.default_rng(seed)
    categories = rng.integers(0, 12, (n, 2))
    numbers = rng.normal(size=(n, 1))
    label = ((categories.sum(1) % 2 == 0) ^ (rng.random(n) < 0.05)).astype(float)
    return Labelled(Features(categories, numbers), label)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["deepfm", "dcnv2", "autoint", "finalmlp"])
def test_neural_models_learn_an_interaction_that_logistic_regression_cannot(kind):
    train, valid, test = crossed(4000, 0), crossed(1000, 1), crossed(1000, 2)
    choices = NeuralChoices(batch_size=256, max_epochs=25, dropout=0.0, table_decay=0.0)

    def auc(which):
        model = NeuralModel(which, SCHEMA, choices, 0).fit(ExampleSource([lambda epoch: train]), valid, None)
        return roc_auc_score(test.label, model.predict(test.features))

    assert auc(kind) > 0.85
    assert auc("logistic") < 0.6


def test_the_factorisation_machine_term_is_the_sum_over_pairs():
    network = NeuralCTR(
        "deepfm", (3, 4), 2, dim=5, hidden=(4,), dropout=0.0, generator=torch.Generator().manual_seed(0)
    )
    torch.nn.init.zeros_(network.head.weight)
    categories, numbers = torch.tensor([[2, 1]]), torch.tensor([[0.5, -1.5]])
    table, vectors = network.embedding.weight, network.number_vectors
    fields = [table[2], table[3 + 1], 0.5 * vectors[0], -1.5 * vectors[1]]
    expected = sum(fields[i] @ fields[j] for i in range(4) for j in range(i + 1, 4))
    torch.testing.assert_close(network(categories, numbers)[0], expected, rtol=1e-4, atol=1e-7)


def test_a_layer_that_is_left_out_is_no_column(tiny_markets):
    prepared = tiny_markets["m0"]
    embedding = fit_embedding(prepared, EmbeddingConfig(dim=8))
    found = {}
    for layers in (["global", "local"], ["global"], ["local"]):
        config = tiny(ctr={"layers": layers})
        bench = market_trainer(prepared, embedding, config)
        builder = bench.builder(configured_recipe(config), local_model(config, embedding, 0))
        found["+".join(layers)] = builder.schema(), builder(prepared.test.user, prepared.test.item)
    whole, features = found["global+local"]
    for layer, other in (("global", "local"), ("local", "global")):
        schema, alone = found[layer]
        kept = [name for name in whole.category_names if other not in name]
        assert list(schema.category_names) == kept
        np.testing.assert_array_equal(
            alone.categories, features.categories[:, [whole.category_names.index(name) for name in kept]]
        )
        dropped = {f"same_{other}_code"} | ({"same_global_code_share", "code_lift"} if other == "global" else set())
        kept = [name for name in whole.number_names if name not in dropped]
        assert list(schema.number_names) == kept
        np.testing.assert_array_equal(
            alone.numbers, features.numbers[:, [whole.number_names.index(name) for name in kept]]
        )


def test_attention_between_fields_is_that_of_the_paper_field_by_field():
    layer = FieldAttention(4, torch.Generator().manual_seed(0))
    fields = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    query, key, value, rest = (fields[0] @ part.weight.T for part in (layer.query, layer.key, layer.value, layer.rest))
    expected = torch.zeros(3, 4)
    for head in (slice(0, 2), slice(2, 4)):
        for field in range(3):
            weight = torch.softmax(torch.stack([query[field, head] @ key[other, head] for other in range(3)]), dim=0)
            expected[field, head] = sum(weight[other] * value[other, head] for other in range(3))
    torch.testing.assert_close(layer(fields)[0], torch.relu(expected + rest))


def test_two_streams_are_joined_by_a_linear_and_a_bilinear_form():
    network = TwoStreams(5, (6, 4), 0.0, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.gates, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(1, 5, generator=torch.Generator().manual_seed(2))
    gates = 2.0 / (1.0 + torch.exp(-network.gates))
    one, other = network.first(inputs * gates[0])[0], network.second(inputs * gates[1])[0]
    expected = network.linear.weight[0] @ torch.cat([one, other]) + network.linear.bias[0]
    for head, part in enumerate((slice(0, 2), slice(2, 4))):
        expected = expected + one[part] @ network.form[head] @ other[part]
    torch.testing.assert_close(network(inputs)[0], expected)


def test_models_are_reproducible_and_refit_uses_the_refit_rows():
    train, valid, more = crossed(800, 0), crossed(300, 1), crossed(2000, 3)
    source, refit = ExampleSource([lambda epoch: train]), ExampleSource([lambda epoch: more])
    neural = NeuralChoices(batch_size=256, max_epochs=4)
    for make in (
        lambda: NeuralModel("deepfm", SCHEMA, neural, 5),
        lambda: BoostedModel(SCHEMA, BoostedChoices(max_iterations=20), 5),
    ):
        first = make().fit(source, valid, None).predict(valid.features)
        np.testing.assert_array_equal(first, make().fit(source, valid, None).predict(valid.features))
        assert not np.array_equal(first, make().fit(source, valid, refit).predict(valid.features))


def test_cross_fitting_projects_users_again_without_the_held_out_rows(tiny_markets):
    config = tiny()
    prepared = tiny_markets["m0"]
    embedding = fit_embedding(prepared, EmbeddingConfig(dim=8))
    bench = market_trainer(prepared, embedding, config)
    seen = []

    class Recording:
        user_factors_, item_factors_ = embedding.user_factors_, embedding.item_factors_

        def transform(self, history):
            seen.append(int(history.nnz))
            return embedding.transform(history)

    bench.embedding = Recording()
    from fedmm_secure.quantization.build import initial_model

    bench.train(configured_recipe(config), initial_model(config, 0), 0, BoostedChoices(max_iterations=5))
    assert len(prepared.split.train) in seen
    assert min(seen) < len(prepared.split.train)


@pytest.mark.long
@pytest.mark.parametrize("model", ["boosted", "deepfm"])
def test_tuning_begins_the_chosen_fit_and_refits_nothing(tiny_markets, monkeypatch, model):
    config = tiny(ctr={"model": model, "features": ["counts", "item_codes"], "average_local": True, "max_epochs": 3})
    prepared, recipe = tiny_markets["m0"], configured_recipe(config)
    bench = market_trainer(prepared, fit_embedding(prepared, config.embedding), config)
    codes, refitted, drawn = bench.local_quantizer(0), [], []
    refit, draw = AveragedModel.refit, dataset.with_negatives
    monkeypatch.setattr(AveragedModel, "refit", lambda self, source: refitted.append(source) or refit(self, source))
    monkeypatch.setattr(dataset, "with_negatives", lambda *given: drawn.append(given) or draw(*given))
    found = bench.tune(recipe, codes, 0)
    assert not refitted
    if model == "boosted":  # each choice and each of the two members sees the same examples
        assert len(drawn) == len(bench._folds)
    found.fit.finish()
    assert len(refitted) == 1
    choices = bench.grid(recipe.kind)
    alone, builder = bench.train(recipe, codes, 0, choices[found.choice])
    np.testing.assert_array_equal(bench.predict(found.fit.model, found.fit.builder), bench.predict(alone, builder))
    fits = [bench.prepare_fit(recipe, codes, 0, one) for one in choices]
    assert found.choice == np.argmax([fit.model.fit(fit.source, fit.validation, None).validation_auc_ for fit in fits])


def test_codes_of_its_own_are_trained_once_unless_markets_share_a_space(tiny_markets):
    prepared = tiny_markets["m0"]
    bench = market_trainer(prepared, fit_embedding(prepared, EmbeddingConfig(dim=8)), tiny())
    assert bench.local_quantizer(1) is bench.own_quantizer("own", 1)


def test_what_was_drawn_last_is_not_drawn_again():
    drawn = []
    source = ExampleSource([lambda epoch: drawn.append(epoch) or crossed(10, epoch)]).latest_kept()
    assert source.draw(0) is source.draw(0)
    assert source.draw(1) is not source.draw(0)
    assert drawn == [0, 1, 0]


def test_an_average_is_the_mean_of_its_members_log_odds_each_on_its_own_columns():
    train, valid = crossed(800, 0), crossed(300, 1)
    source = ExampleSource([lambda epoch: train])

    def doubled(labelled):
        both = [np.concatenate([part, part], axis=1) for part in vars(labelled.features).values()]
        return Labelled(Features(*both), labelled.label)

    choices = BoostedChoices(max_iterations=10)
    members = [BoostedModel(SCHEMA, choices, seed) for seed in (0, 1)]
    average = AveragedModel(members, [SCHEMA, SCHEMA])
    average.fit(ExampleSource([lambda epoch: doubled(train)]), doubled(valid), None)
    alone = [BoostedModel(SCHEMA, choices, seed).fit(source, valid, None).predict(valid.features) for seed in (0, 1)]
    logit = np.mean([np.log(p / (1 - p)) for p in alone], axis=0)
    np.testing.assert_allclose(average.predict(doubled(valid).features), 1 / (1 + np.exp(-logit)), rtol=1e-9)
