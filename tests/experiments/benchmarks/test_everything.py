import json

from experiments.benchmarks import everything
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
    assert all(row["ratio"] > 0 and row["low"] <= row["ratio"] <= row["high"] for row in rows if row["low"] > 0)
