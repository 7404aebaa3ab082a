"""Baselines that markets train together: where they must equal local training, what is sent, and what stays at home."""

import numpy as np
import pytest
import torch

from experiments.verification.schemas import metrics_problems
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config.choices import FIELD_BASELINES
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.models.neural import NeuralTraining
from fedmm_secure.ctr.recipes import baseline_recipe
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.field.coded import CODES, ITEM_CODE, LEVELS, CodedItems, item_codes, residual_codes, with_item_codes
from fedmm_secure.field.compare import POOLED, Bench, refuse_apart, train_field
from fedmm_secure.field.market_aware import MarketAwareModel
from fedmm_secure.field.methods import METHODS, Method
from fedmm_secure.field.pooled import pool, rows_moved
from fedmm_secure.field.rounds import Participant, average_rounds, train, weighted_mean
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from tests.conftest import tiny

APART = [name for name in FIELD_BASELINES if name != "rqfedrec-like"]  # where markets share no items
CONFIG = tiny(ctr={"baselines": APART, "max_epochs": 2})
BRIEFLY = tiny(ctr={"baselines": APART, "max_epochs": 1})
SHARED = tiny(
    data={"synthetic": {"markets": 3, "users": 80, "items": 40, "shared_items": 30, "mean_interactions": 10},
          "shared_items": True, "min_item_train": 3},
    ctr={"baselines": ["market-aware", "rqfedrec-like"], "max_epochs": 2},
)  # fmt: skip


@pytest.fixture(scope="module")
def embeddings(tiny_markets):
    return {name: fit_embedding(prepared, CONFIG.embedding) for name, prepared in tiny_markets.items()}


@pytest.fixture
def fits(tiny_markets, embeddings):
    """Unfitted networks on ids of all markets."""
    found = {}
    for name, prepared in tiny_markets.items():
        bench = market_trainer(prepared, embeddings[name], CONFIG)
        found[name] = bench.prepare_fit(baseline_recipe("local-ids"), None, 0, bench.grid("deepfm")[0])
    return found


def state(model):
    return {name: value.numpy().copy() for name, value in model.network_.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def local(fit):
    """What the market's own training gives."""
    fit.run()
    return state(fit.model)


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_one_market_alone_trains_as_it_does_without_a_server(fits, name):
    one = fits["m0"]
    method = METHODS[name]
    found = train([one], method, 0.0)
    together, auc, rounds = state(one.model), found.validation_auc, found.rounds
    assert_same(together, local(one))
    assert (auc, rounds) == (one.model.validation_auc_, one.model.epochs_)


@pytest.mark.long
def test_a_pull_of_nothing_is_fedavg_and_one_that_is_there_is_not(fits):
    def dense(pull):
        members = [Participant(fit, fit.source, METHODS["fedprox"], pull) for fit in fits.values()]
        average_rounds(members, 2, lambda done: False)
        return read_arrays(members[0].message())

    members = [Participant(fit, fit.source, METHODS["fedavg"], 0.0) for fit in fits.values()]
    average_rounds(members, 2, lambda done: False)
    averaged = read_arrays(members[0].message())
    assert_same(dense(0.0), averaged)
    pulled = dense(50.0)
    start = read_arrays(Participant(fits["m0"], fits["m0"].source, METHODS["fedavg"], 0.0).message())
    assert distance(pulled, start) < 0.7 * distance(averaged, start)


def distance(one, other):
    return sum(float(np.square(one[name] - other[name]).sum()) for name in one)


@pytest.mark.long
def test_ditto_without_a_pull_predicts_as_each_market_alone(fits):
    members = {name: Participant(fit, fit.source, METHODS["ditto"], 0.0) for name, fit in fits.items()}
    average_rounds(list(members.values()), 2, lambda done: False)
    for name, fit in fits.items():
        alone = NeuralTraining(fit.model, fit.source)
        for _ in range(2):
            alone.epoch()
        expected = {key: value.numpy() for key, value in alone.network.state_dict().items()}
        assert_same({key: value.numpy() for key, value in members[name].network.state_dict().items()}, expected)


def test_ditto_sends_what_fedavg_sends(fits):
    sent = []
    for name, pull in (("ditto", 1.0), ("fedavg", 0.0)):
        members = [Participant(fit, fit.source, METHODS[name], pull) for fit in fits.values()]
        average_rounds(members, 1, lambda done: False)
        sent.append(read_arrays(members[0].message()))
    assert_same(*sent)


def test_tables_of_ids_stay_at_home_and_of_fedrep_the_head_too(fits):
    fit = fits["m0"]
    parts = {name: Participant(fit, fit.source, method, 0.0).parts for name, method in METHODS.items()}
    assert all(rows == slice(None) for found in parts.values() for rows in found.values())
    names = {name: list(found) for name, found in parts.items()}
    network = NeuralTraining(fit.model, fit.source).network
    tables = {"first.weight", "embedding.weight"}
    everything = {name for name, _ in network.named_parameters()}
    assert set(names["fedavg"]) == set(names["fedprox"]) == set(names["ditto"]) == everything - tables
    assert set(names["fedrep"]) == {name for name in everything if name.startswith(("deep.", "number_vectors"))}


def test_fedrep_moves_both_parts_and_averages_one(fits):
    members = [Participant(fit, fit.source, METHODS["fedrep"], 0.0) for fit in fits.values()]
    before = [{name: value.detach().clone() for name, value in m.network.named_parameters()} for m in members]
    average_rounds(members, 1, lambda done: False)
    heads = [member.network.get_parameter("head.weight") for member in members]
    for member, old in zip(members, before, strict=True):
        assert not torch.equal(member.network.get_parameter("head.weight"), old["head.weight"])
        assert not torch.equal(member.network.get_parameter("deep.0.weight"), old["deep.0.weight"])
    assert not torch.equal(heads[0], heads[1])
    torch.testing.assert_close(*(member.network.get_parameter("deep.0.weight") for member in members[:2]))


def test_the_mean_is_weighted_by_examples():
    found = weighted_mean([{"w": np.float32([1.0, 3.0])}, {"w": np.float32([5.0, 7.0])}], np.array([0.75, 0.25]))
    np.testing.assert_allclose(found["w"], [2.0, 4.0])
    assert found["w"].dtype == np.float32


def test_bytes_are_those_of_the_messages_one_by_one(fits):
    members = [Participant(fit, fit.source, METHODS["fedavg"], 0.0) for fit in fits.values()]
    network = members[0].network
    shape = {name: tuple(network.get_parameter(name).shape) for name in members[0].parts}
    one = len(arrays_bytes({name: np.zeros(size, dtype=np.float32) for name, size in shape.items()}))
    found = average_rounds(members, 2, lambda done: False)
    assert (found.bytes_up, found.bytes_down, found.rounds) == (2 * 3 * one, 3 * 3 * one, 2)


def test_pooled_rows_meet_in_one_table_where_items_mean_the_same():
    markets = prepare_markets(SHARED.data)
    for config in (SHARED, CONFIG):
        benches = {
            name: market_trainer(prepared, fit_embedding(prepared, CONFIG.embedding), CONFIG)
            for name, prepared in markets.items()
        }
        choices = benches["m0"].grid("deepfm")[0]
        own = {name: b.prepare_fit(baseline_recipe("local-ids"), None, 0, choices) for name, b in benches.items()}
        fits = pool(config, markets, own, choices, 0)
        item = {
            name: {str(i): int(fits[name].builder(np.zeros(1, int), np.array([k])).categories[0, 1])
                   for k, i in enumerate(markets[name].market.item_ids)}
            for name in markets
        }  # fmt: skip
        common = set(item["m0"]) & set(item["m1"])
        assert len(common) == 30
        assert {i for i in common if item["m0"][i] == item["m1"][i]} == (common if config is SHARED else set())
        users = [set(fit.builder(np.arange(80), np.zeros(80, int)).categories[:, 0]) for fit in fits.values()]
        assert len(set.union(*users)) == 3 * 80
        assert len({id(fit.model) for fit in fits.values()}) == 1


@pytest.fixture(scope="module")
def sharing():
    """Markets of one catalogue, and their unfitted networks on ids."""
    markets = prepare_markets(SHARED.data)
    embeddings = {name: fit_embedding(prepared, SHARED.embedding) for name, prepared in markets.items()}
    benches = {name: market_trainer(prepared, embeddings[name], SHARED) for name, prepared in markets.items()}
    own = {
        name: bench.prepare_fit(baseline_recipe("local-ids"), None, 0, bench.grid("deepfm")[0])
        for name, bench in benches.items()
    }
    return markets, embeddings, own


def test_a_market_aware_network_is_the_pooled_one_until_markets_have_vectors(sharing):
    markets, _, own = sharing
    choices = own["m0"].model.choices
    logits = []
    for kind in (POOLED["pooled"], POOLED["market-aware"]):
        fit = pool(SHARED, markets, own, choices, 0, kind)["m1"]
        network = NeuralTraining(fit.model, fit.source).network.eval()
        categories = torch.from_numpy(fit.validation.features.categories)
        offset = int(network.offsets[-1])
        for vector in (torch.zeros(choices.dim), torch.linspace(0.5, 1.0, choices.dim)):
            with torch.no_grad():
                network.embedding.weight[offset:] = vector
                logits.append(network(categories, torch.zeros(len(categories), 0)))
    plain, changed, aware, adapted = logits
    torch.testing.assert_close(aware, plain)
    assert not torch.allclose(adapted, changed)
    assert isinstance(fit.model, MarketAwareModel)
    item = network.embedding.weight[network.offsets[1]]
    found = network.embed(torch.tensor([[0, int(network.offsets[1]), offset]]))[0, 1]
    torch.testing.assert_close(found, item * (1.0 + vector))


def test_residual_codes_tell_apart_what_k_means_leaves():
    rng = np.random.default_rng(0)
    coarse, fine = rng.normal(size=(4, 3)) * 10, rng.normal(size=(3, 3))
    one, other = np.repeat(np.arange(4), 30), np.tile(np.arange(3), 40)
    vectors = coarse[one] + fine[other] + 0.01 * rng.normal(size=(120, 3))
    codes = residual_codes(vectors, 2, 4, 0)
    assert codes.shape == (120, 2)
    assert {tuple(pair) for pair in codes[one == 0]} != {tuple(pair) for pair in codes[one == 1]}
    means = [vectors[codes[:, 0] == code].mean(0) for code in range(4)]
    rest = vectors - np.array(means)[codes[:, 0]]
    second = rest - np.array([rest[codes[:, 1] == code].mean(0) for code in range(4)])[codes[:, 1]]
    assert np.square(second).sum() < np.square(rest).sum() < np.square(vectors).sum()
    np.testing.assert_array_equal(codes, residual_codes(vectors, 2, 4, 0))


def test_an_item_has_the_same_codes_in_every_market_and_they_stand_for_its_id(sharing):
    markets, embeddings, own = sharing
    codes = item_codes(SHARED.data, markets, embeddings, 0)
    known = [
        {item: tuple(code) for item, code in zip(markets[name].market.item_ids, codes[name], strict=True)}
        for name in ("m0", "m1")
    ]
    common = known[0].keys() & known[1].keys()
    assert len(common) == 30
    assert all(known[0][item] == known[1][item] for item in common)
    inputs = CodedItems(own["m0"].builder, codes["m0"])
    user, item = np.array([3, 4]), np.array([5, 6])
    np.testing.assert_array_equal(inputs(user, item).categories, np.column_stack([user, codes["m0"][item]]))
    assert inputs.schema().cardinalities == (80, *(CODES,) * LEVELS)


def test_vectors_of_codes_are_averaged_and_those_of_users_stay_at_home(sharing):
    markets, embeddings, own = sharing
    codes = item_codes(SHARED.data, markets, embeddings, 0)
    members = []
    for name, fit in own.items():
        found = with_item_codes(fit, codes[name])
        members.append(Participant(found, found.source, METHODS["rqfedrec-like"], 0.0))
    tables = read_arrays(members[0].message())
    assert tables["embedding.weight"].shape == (LEVELS * CODES, SHARED.ctr.dim)
    assert tables["first.weight"].shape == (LEVELS * CODES, 1)
    before = [member.network.embedding.weight.detach().clone() for member in members]
    average_rounds(members, 1, lambda done: False)
    users = [member.network.embedding.weight[:80] for member in members]
    assert all(not torch.equal(now, then[:80]) for now, then in zip(users, before, strict=True))
    assert not torch.equal(users[0], users[1])
    torch.testing.assert_close(members[0].network.embedding.weight[80:], members[1].network.embedding.weight[80:])
    assert not torch.equal(members[0].network.embedding.weight[80:], before[0][80:])
    assert METHODS["rqfedrec-like"].tables == (ITEM_CODE,)


@pytest.mark.long
def test_what_shares_items_is_trained_and_counts_the_codes_that_it_sends(sharing, tmp_path):
    markets, embeddings, _ = sharing
    found = train_field(SHARED, markets, embeddings, tmp_path)
    for name, prepared in markets.items():
        for (values,) in found.predictions[name].values():
            assert values.shape == (len(prepared.whole.test),)
            assert ((values > 0) & (values < 1)).all()
    moved = found.traffic
    assert moved["market-aware"] == rows_moved(markets)
    codes = sum(len(arrays_bytes({"codes": c})) for c in item_codes(SHARED.data, markets, embeddings, 0).values())
    message, rest = divmod(moved["rqfedrec-like"].bytes_down - codes, moved["rqfedrec-like"].rounds + 2)
    assert (rest, moved["rqfedrec-like"].bytes_up) == (0, message * moved["rqfedrec-like"].rounds)


def test_pooling_moves_the_rows_once(tiny_markets):
    found = rows_moved(tiny_markets)
    rows = sum(len(p.split.train) + len(p.split.valid) for p in tiny_markets.values())
    assert 16 * rows < found.bytes_up < 16 * rows + 3 * 1024
    assert (found.bytes_down, found.rounds) == (0, 1)


@pytest.mark.long
def test_all_of_them_are_trained_kept_and_read_again(tiny_markets, embeddings, tmp_path, monkeypatch):
    found = train_field(BRIEFLY, tiny_markets, embeddings, tmp_path)
    for name, prepared in tiny_markets.items():
        assert list(found.predictions[name]) == APART
        for (values,) in found.predictions[name].values():
            assert values.shape == (len(prepared.whole.test),)
            assert ((values > 0) & (values < 1)).all()
    assert all(found.traffic[name].bytes_up > 0 for name in APART)
    monkeypatch.setattr(Bench, "run", lambda *args: pytest.fail("trained again"))
    again = train_field(BRIEFLY, tiny_markets, embeddings, tmp_path)
    assert again.traffic == found.traffic
    np.testing.assert_array_equal(again.predictions["m1"]["ditto"][0], found.predictions["m1"]["ditto"][0])


@pytest.mark.long
def test_a_run_says_what_they_reach_and_what_travelled(tiny_markets, tmp_path):
    config = tiny(
        ctr={"baselines": ["fedavg", "popularity"], "max_epochs": 1, "refit": False}, federation={"rounds": 1}
    )
    metrics = run_pipeline(config, tiny_markets, tmp_path / "run")
    assert list(metrics_problems(config, metrics)) == []
    sent = metrics["macro"]["baselines"]["fedavg"]["communication"]
    assert (sent["rounds"], sent["bytes_down"]) == (1, 2 * sent["bytes_up"])
    assert "communication" not in metrics["macro"]["baselines"]["popularity"]
    for values in metrics["markets"].values():
        assert set(values["baselines"]) == {"fedavg", "popularity"}
        assert values["baselines"]["fedavg"]["auc"] > 0.4


def test_tuning_takes_the_try_of_best_validation(tiny_markets, embeddings, monkeypatch):
    aucs = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(Bench, "_train", lambda *args, **kwargs: ({}, next(aucs), None))
    assert Bench(CONFIG, tiny_markets, embeddings).tune("fedprox") == 1


def test_every_method_has_a_pull_for_each_try(tiny_markets, embeddings):
    tries = len(market_trainer(tiny_markets["m0"], embeddings["m0"], CONFIG).grid(CONFIG.field.model))
    assert {len(method.pulls) for method in METHODS.values()} == {tries}
    assert set(METHODS) | set(POOLED) == set(FIELD_BASELINES)
    assert not set(METHODS) & set(POOLED)
    assert isinstance(METHODS["fedavg"], Method)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ctr": {"baselines": ["fedavg"]}, "privacy": {"epsilon": 8}}, "fedavg needs privacy.epsilon: null"),
        ({"field": {"model": "boosted"}}, "boosted has no weights"),
        ({"field": {"features": ["scores", "item_codes"]}}, "without codes"),
        ({"field": {"features": ["shared"]}}, "shared needs data.shared_items"),
        ({"ctr": {"baselines": ["rqfedrec-like"]}}, "rqfedrec-like needs data.shared_items"),
        ({"ctr": {"baselines": ["market-aware"]}, "field": {"features": ["user_id"]}}, "market-aware needs item_id"),
    ],
)
def test_what_cannot_be_is_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**sections)


def test_markets_that_run_apart_refuse_them():
    with pytest.raises(ConfigError, match="pooled needs the rows of all markets"):
        refuse_apart(CONFIG)
    refuse_apart(tiny())
