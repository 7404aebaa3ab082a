import json
import math

import numpy as np

from attacks.metrics import Estimate
from experiments.benchmarks import everything, scoring
from experiments.benchmarks.everything import _inverse
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.synthetic import synthesize_one
from fedmm_secure.randomness import numpy_generator
from tests.command_line import fedmm


def test_each_bench_is_held_against_its_first_way(monkeypatch, capsys):
    monkeypatch.setattr(everything, "DRAWS", 1000)
    monkeypatch.setattr(everything, "BATCH", 16)
    monkeypatch.setattr(scoring, "USERS", 30)
    monkeypatch.setattr(scoring, "ITEMS", 80)
    monkeypatch.setattr(scoring, "PAIRS", 500)
    small = ("--set=quantizer={global_codes: 4, latent_dim: 4}", "--repeat=3", "--json")
    status, out, _ = fedmm(capsys, "bench", "all", *small)
    assert status == 0
    rows = json.loads(out)["rows"]
    firsts = {row["bench"]: row for row in reversed(rows)}
    assert list(firsts) == ["aggregation", "scoring", "dp-sgd", "noise"]
    assert all(row["ratio"] == 1.0 for row in firsts.values())
    assert all(row["low"] <= row["ratio"] and (row["high"] is None or row["ratio"] <= row["high"]) for row in rows)


def test_bytes_that_scoring_needs_are_counted_by_hand(monkeypatch):
    monkeypatch.setattr(scoring, "USERS", 30)
    monkeypatch.setattr(scoring, "ITEMS", 80)
    monkeypatch.setattr(scoring, "PAIRS", 500)
    market = synthesize_one(SyntheticSpec(users=30, items=80, mean_interactions=20.0), 0).market
    met = np.bincount(market.user, minlength=market.n_users)
    user = numpy_generator("bench-scoring").integers(market.n_users, size=500)
    by_pair = sum(met[one] * (8 + 8 + 4) + 2 * 64 * 8 + 8 * 8 for one in user)
    by_pool = sum(count * (market.n_items * 16 + 4) + (32 + 3 * market.n_items) * 8 for count in met)
    copied, pairs, pool = scoring.measure_scoring(3)
    assert round(pairs.gigabytes * 1e9) == by_pair
    assert round(pool.gigabytes * 1e9) == by_pool + market.n_items * 32 * 8
    assert copied.slower == Estimate(1.0, 1.0, 1.0)
    assert pairs.rate.value > 0.0


def test_an_interval_that_holds_0_has_an_inverse_without_bound():
    assert _inverse(Estimate(2.0, 1.0, 4.0)) == Estimate(0.5, 0.25, 1.0)
    assert _inverse(Estimate(2.0, -1.0, 4.0)) == Estimate(0.5, 0.25, math.inf)
