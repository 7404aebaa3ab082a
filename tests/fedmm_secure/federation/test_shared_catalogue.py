"""Sums over a catalogue that markets share: exact integers by every aggregator, noise once, one space everywhere."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.deploy.homes import prepare_homes
from fedmm_secure.collaborative.shared import COLUMNS
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.recipes import configured_recipe
from fedmm_secure.data.market import DAY
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.data.shared_items import shared_catalogue, shared_positions
from fedmm_secure.errors import ConfigError, DataError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.federation.messages import unpack
from fedmm_secure.federation.orders import Order
from fedmm_secure.federation.parties import market_sizes, open_federation
from fedmm_secure.federation.shared_catalogue import shared_statistics, shared_svd, totals
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.guarantee.multipliers import MarketSize, plan_noise
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.shared_sums import shared_sums
from fedmm_secure.guarantee.stages import SEVERAL_MARKETS, SHARED_COUNTS, SHARED_GRAM
from fedmm_secure.pipeline import run_pipeline, sum_over_markets
from fedmm_secure.quantization.build import initial_model, local_model
from fedmm_secure.results.scoring import load_trained
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.accountants import pld_epsilon
from privacy.aggregation.base import Binding
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.randomness import LEVELS
from privacy.mechanisms.shared_parts import noise_of_sum
from tests.conftest import TINY, tiny
from tests.dishonest import DishonestServer
from tests.parties import acquainted
from tests.released import PRIVATE, RELEASE

SYNTHETIC = {**TINY["data"]["synthetic"], "shared_items": 30}
DATA = {"synthetic": SYNTHETIC, "shared_items": True}
GRAM_ITEMS = 25
MARKETS = ("a", "b", "c")
KINDS = ("plaintext", "ckks", "masked-ckks")


def settings(kind="masked-ckks", **sections):
    embedding = {"dim": 8, "shared_items": GRAM_ITEMS, **sections.pop("embedding", {})}
    return tiny(data=DATA, embedding=embedding, aggregation={"kind": kind}, **sections)


def private_settings(**privacy):
    public = {"reference_date": "2022-01-01"}
    return settings(
        embedding=PRIVATE, privacy={**RELEASE, "contribution": public, **privacy}, ctr={"baselines": ["popularity"]}
    )


@pytest.fixture(scope="module")
def markets():
    return prepare_markets(settings().data)


def summed(config, markets, directory):
    federation = open_federation(config, markets, directory)
    sum_over_markets(federation, markets, lambda event, fields: None)
    return federation


@pytest.fixture(scope="module")
def federations(markets, tmp_path_factory):
    return {kind: summed(settings(kind), markets, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def private(markets, tmp_path_factory):
    return summed(private_settings(), markets, tmp_path_factory.mktemp("private"))


def histories_by_id(markets):
    """Each user's items and days, by raw id: rows joined by item alone."""
    for name, prepared in markets.items():
        market = prepared.market
        for row in prepared.split.train:
            yield (name, market.user[row]), str(market.item_ids[market.item[row]]), int(market.time[row] // DAY)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_what_counting_by_hand_gives(kind, federations, markets):
    found, catalogue = totals(federations[kind]), list(shared_catalogue(settings().data).items)
    rows, days, met = dict.fromkeys(catalogue, 0), dict.fromkeys(catalogue, 0), {}
    for user, item, day in histories_by_id(markets):
        rows[item] += 1
        days[item] += day
        met.setdefault(user, set()).add(item)
    assert found.counts.reshape(COLUMNS, -1).tolist() == [list(rows.values()), list(days.values())]
    chosen = [catalogue[at] for at in found.items]
    assert min(rows[item] for item in chosen) >= max(rows[item] for item in set(catalogue) - set(chosen))
    by_hand = [
        sum(first in items and second in items for items in met.values())
        for place, first in enumerate(chosen)
        for second in chosen[place:]
    ]
    assert found.gram.tolist() == by_hand


def test_a_market_is_left_with_what_the_others_know(federations, markets):
    federation = federations["masked-ckks"]
    found = shared_statistics(totals(federation), markets["m0"])
    others = [row for row in histories_by_id(markets) if row[0][0] != "m0"]
    for item, name in enumerate(markets["m0"].market.item_ids):
        days = [day for _, other, day in others if other == name]
        assert found.count[found.position[item]] == len(days)
        if days:
            assert found.day[found.position[item]] == pytest.approx(np.mean(days))


@pytest.mark.parametrize(("below", "members"), [(81, 3), (80, 2)])
def test_a_small_market_keeps_a_model_that_sees_nothing_of_others(below, members, federations, markets):
    config, prepared = settings(ctr={"average_local": True, "keep_own_below": below}), markets["m0"]
    assert prepared.market.n_users == 80
    bench = market_trainer(prepared, shared_svd(totals(federations["masked-ckks"]), prepared), config)
    recipe, quantizer = configured_recipe(config), initial_model(config, 0)
    own = local_model(config, bench.own_embedding, 1)
    bench.own_quantizers |= {("own", 0): local_model(config, bench.own_embedding, 2), ("own-alone", 0): own}
    inputs = bench.inputs(recipe, quantizer, 0)
    sees_others = [any(name.startswith("shared") for name in schema.number_names) for schema in inputs.schemas]
    assert sees_others == [True, True, False][:members]
    accounts = bench.accounts(recipe, quantizer, 0)(bench.history.matrix)
    assert accounts.schemas == inputs.schemas
    pairs = prepared.test.user, prepared.test.item
    without = tiny(data={**DATA, "shared_items": False})
    separate = market_trainer(prepared, bench.own_embedding, without).builder(configured_recipe(without), own)(*pairs)
    same = np.array_equal(inputs(*pairs).numbers[:, -separate.numbers.shape[1] :], separate.numbers)
    assert same == (members == 3)  # the third is, to the last bit, the model that the market has without the others


@pytest.mark.long
def test_a_run_leaves_all_models_of_the_average(markets, tmp_path):
    config = settings(
        "plaintext", ctr={"model": "logistic", "average_local": True, "baselines": []}, federation={"rounds": 1}
    )
    run_pipeline(config, markets, tmp_path / "run")
    found = load_trained(RunFiles(tmp_path / "run", "m0"), config, markets["m0"], 0)
    assert len(found.model.members) == 3
    own, alone = (found.bench.own_quantizers[kind, 0].state_dict() for kind in ("own", "own-alone"))
    assert not torch.equal(own["global_codebook.codewords"], alone["global_codebook.codewords"])
    kept = pd.read_parquet(RunDirectory(tmp_path / "run").predictions("m0"))
    predicted = found.model.predict(found.builder()(kept["user"].to_numpy(), kept["item"].to_numpy()))
    np.testing.assert_allclose(predicted, kept["fedmm/0"], rtol=1e-12)


def test_items_have_one_place_in_all_markets(federations, markets):
    embeddings = {}
    for name, prepared in markets.items():
        embeddings[name] = shared_svd(totals(federations["plaintext"]), prepared)
    positions = {name: shared_positions(settings().data, found.market) for name, found in markets.items()}
    in_gram = set(totals(federations["plaintext"]).items.tolist())
    common = sorted(set(positions["m0"]) & set(positions["m1"]) & in_gram)
    assert len(common) > 10
    first, second = (embeddings[name].item_factors_[np.searchsorted(positions[name], common)] for name in ("m0", "m1"))
    assert first == pytest.approx(second, abs=1e-9)


@pytest.mark.long
def test_ledger_lines_say_what_a_person_in_several_markets_has(federations, private):
    for federation in (federations["plaintext"], private):
        lines = [entry for entry in federation.entries("m0") if entry.stage in (SHARED_COUNTS, SHARED_GRAM)]
        assert [entry.remark for entry in lines] == [SEVERAL_MARKETS] * 2


def test_noise_is_once_in_the_sum_and_what_the_most_sensitive_market_needs(private, federations, markets):
    """4,500 spare values: their standard deviation is within 10 % but for a probability below 1e-20."""
    found, sums = totals(private), shared_sums(private.config, market_sizes(private.config, sorted(markets), markets))
    for stage in (SHARED_COUNTS, SHARED_GRAM):
        needed = max(plan.noise[stage] for plan in private.plans.values())
        honest = len(markets) - private.config.privacy.colluding_markets
        # after a colluder has taken its part off, what is left is still enough
        assert noise_of_sum(sums[stage].norm, honest) == pytest.approx(needed)
    spare = [np.frombuffer(record_bytes(private, name, SHARED_COUNTS), "<i8") for name in markets]
    assert np.std(np.concatenate(spare)) == pytest.approx(scale(LEVELS), rel=0.1)
    assert found.noisy.noise == pytest.approx(noise_of_sum(sums[SHARED_COUNTS].norm, len(markets)))


@pytest.mark.long
def test_what_a_small_market_does_not_need_of_a_sums_noise_it_spends_on_its_own_counts():
    config, sizes = private_settings(), {"large": MarketSize(5000, 40), "other": MarketSize(5000, 40)}
    sizes["small"] = MarketSize(200, 40)
    alone = {name: plan_noise(config, size.items, config.privacy.delta_for(size.users)) for name, size in sizes.items()}
    planned = {name: SpendingPlan.of(config, name, sizes) for name in sizes}
    for plan in planned.values():
        assert plan.noise[SHARED_GRAM] == alone["large"][SHARED_GRAM] == plan.sums[SHARED_GRAM].noise_multiplier
        spent = pld_epsilon([plan.stage_event(stage) for stage in plan.noise], plan.delta)
        assert 0.97 * config.privacy.epsilon < spent <= config.privacy.epsilon
    assert planned["large"].noise == pytest.approx(alone["large"], rel=2e-3)
    assert planned["small"].noise["counts"] < 0.9 * alone["small"]["counts"]


def record_bytes(federation, market, stage):
    return federation.transcript.find(kind="meter", stage=stage, round=0, sender=market)


def test_a_resumed_run_sums_nothing_again(private, markets, tmp_path_factory):
    before = {name: len(private.entries(name)) for name in markets}
    again = summed(private_settings(), markets, private.directory)
    assert {name: len(again.entries(name)) for name in markets} == before
    assert (totals(again).counts == totals(private).counts).all()


@pytest.mark.parametrize("kind", ["ckks", "masked-ckks"])
@pytest.mark.parametrize("users", [100, 40_000])
def test_one_key_serves_vectors_of_all_lengths_in_limbs_where_values_are_large(kind, users):
    config = settings(kind) if kind == "ckks" else private_settings()
    plan = AggregationPlan.of(config, {name: MarketSize(users, 40) for name in MARKETS})
    assert plan.limbs == (2 if users == 40_000 and kind == "masked-ckks" else 1)
    key, masks, wide = plan.generate_key(), acquainted(MARKETS), plan.of_stage(SHARED_COUNTS)
    binding = Binding("run", SHARED_COUNTS, 0, 0, MARKETS)
    rng, largest = np.random.default_rng(0), plan.largest_sum // len(MARKETS)
    values = {name: rng.integers(-largest, largest, wide.values, endpoint=True) for name in MARKETS}
    markets = {name: wide.market(key, masks[name]) for name in MARKETS}
    server = wide.server()
    total = server.aggregate([markets[name].protect(values[name], binding) for name in MARKETS])
    assert len(total) == server.aggregate_bytes
    assert (markets["a"].reveal(total, binding) == np.sum(list(values.values()), axis=0)).all()
    plan.market(key, masks["a"])  # the same key fits the codebook's updates


def test_market_services_sum_before_they_embed(tmp_path):
    """Processes of their own, each with its own rows and the public list alone, up to the codebook's first round."""
    prepare_homes(settings("ckks"), tmp_path / "homes")
    server = DishonestServer(tmp_path / "homes")  # honest here: it asks what it should
    hellos, sums = server.hellos(), {}
    aggregate = b""
    for stage in (SHARED_COUNTS, SHARED_GRAM):
        order = Order(stage, 0, 0, server.markets)
        statements = server.state(order, aggregate=aggregate, hellos=hellos)
        payloads = [unpack(message)[1] for message in server.updates(order, statements).values()]
        aggregate, hellos = server.aggregate(order, server.plan.of_stage(stage).server().aggregate(payloads)), {}
    statements = server.state(server.order(0), aggregate=aggregate)
    assert all(server.updates(server.order(0), statements).values())
    for market in server.markets:
        transcript = Transcript(server.homes.market(market) / "runs" / server.run / "transcript")
        sums[market] = transcript.find(kind="sum", stage=SHARED_GRAM, round=0, sender="server")
    assert len(set(sums.values())) == 1
    assert np.frombuffer(sums["m0"], "<i8").max() > 0


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"ctr": {"features": ["shared"]}}, "shared needs data.shared_items"),
        ({"data": {**DATA, "split": "global-date"}}, "leave-last-out"),
        ({"data": DATA, "embedding": {"kind": "lightgcn"}}, "lightgcn"),
        ({"data": DATA, "privacy": {"epsilon": 4}}, "protect: release"),
        ({"data": DATA, "privacy": RELEASE, "aggregation": {"kind": "ckks"}}, "masked-ckks"),
        (
            {
                "data": {
                    "synthetic": None,
                    "markets": {"a": {"path": "a.csv", "user": "u", "item": "i"}},
                    "shared_items": True,
                }
            },
            "shared_catalogue",
        ),
    ],
)
def test_what_cannot_be_summed_is_refused(sections, problem):
    with pytest.raises(ConfigError, match=problem):
        tiny(**sections)


def test_another_list_than_the_configuration_states_is_refused(tmp_path):
    (tmp_path / "items.txt").write_text("a\nb\n")
    files = {name: {"path": f"{name}.csv", "user": "u", "item": "i"} for name in ("a", "b", "c")}
    stated = {"files": ["items.txt"], "size": 3, "sha256": "0" * 64}
    config = tiny(
        data={
            "synthetic": None,
            "markets": files,
            "root": str(tmp_path),
            "shared_items": True,
            "shared_catalogue": stated,
        }
    )
    with pytest.raises(DataError, match="2 items of sha256"):
        shared_catalogue(config.data)
