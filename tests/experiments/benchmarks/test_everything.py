import json
import math

from attacks.metrics import Estimate
from experiments.benchmarks import everything
from experiments.benchmarks.everything import _inverse
from tests.command_line import fedmm


def test_each_bench_is_held_against_its_first_way(monkeypatch, capsys):
    monkeypatch.setattr(everything, "DRAWS", 1000)
    monkeypatch.setattr(everything, "BATCH", 16)
    small = ("--set=quantizer={global_codes: 4, latent_dim: 4}", "--repeat=3", "--json")
    status, out, _ = fedmm(capsys, "bench", "all", *small)
    assert status == 0
    rows = json.loads(out)["rows"]
    firsts = {row["bench"]: row for row in reversed(rows)}
    assert list(firsts) == ["aggregation", "dp-sgd", "noise"]
    assert all(row["ratio"] == 1.0 for row in firsts.values())
    assert all(row["low"] <= row["ratio"] and (row["high"] is None or row["ratio"] <= row["high"]) for row in rows)


def test_an_interval_that_holds_0_has_an_inverse_without_bound():
    assert _inverse(Estimate(2.0, 1.0, 4.0)) == Estimate(0.5, 0.25, 1.0)
    assert _inverse(Estimate(2.0, -1.0, 4.0)) == Estimate(0.5, 0.25, math.inf)
