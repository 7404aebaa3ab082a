import json

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks import scale
from experiments.benchmarks.scale import exponents
from experiments.benchmarks.scale_figure import draw_scale
from tests.command_line import fedmm

SIZES = {"users": 40, "items": 30, "markets": 3, "codes": 4}


def test_exponents_are_those_of_power_laws():
    sizes = np.array([3, 6, 12, 24])
    costs = np.stack([5.0 * sizes**1.1, 0.2 * sizes**2.0], axis=1)
    np.testing.assert_allclose(exponents(sizes.tolist(), costs), [1.1, 2.0])
    assert exponents([100, 200], np.array([[3.0], [3.0]])) == pytest.approx(0.0)


def test_each_axis_is_doubled_by_itself_and_every_size_measured_as_often(monkeypatch, tmp_path):
    """Costs are made up here: what a run takes is no business of a test."""
    asked = []

    def cost(config):
        spec = config.data.synthetic
        asked.append((spec.users, spec.items, spec.markets, config.quantizer.global_codes))
        return float(spec.users * spec.markets), spec.items * 10**6

    monkeypatch.setattr(scale, "_apart", cost)
    curves = scale.measure_scale("quickstart", [], SIZES, list(SIZES), 2, 2)
    found = {curve.what: curve for curve in curves}
    assert len(asked) == 2 * len(set(asked)) == 2 * 9
    assert [point.size for point in found["users"].points] == [40, 80, 160]
    assert (40, 30, 3, 16) in asked
    assert [found[axis].ratio for axis in SIZES] == pytest.approx([1.0, 0.0, 1.0, 0.0])
    assert found["items"].memory.value == pytest.approx(1.0)
    draw_scale(tmp_path / "scale", curves)
    numbers = pd.read_csv(tmp_path / "scale.csv")
    assert list(numbers[numbers["axis"] == "users"]["seconds"]) == [120.0, 240.0, 480.0]
    assert (tmp_path / "scale.svg").is_file()


def test_curves_are_shown_in_a_table(monkeypatch, capsys):
    monkeypatch.setattr(scale, "_apart", lambda config: (float(config.data.synthetic.users), 10**6))
    status, out, error = fedmm(capsys, "bench", "scale", "--axis=users", "--doublings=1")
    assert status == 0, error
    rows = [line.split() for line in out.splitlines() if line.startswith("users")]
    assert [row[1] for row in rows] == ["1000", "2000", "1.000"]  # sizes, and the exponent below them


def test_a_run_is_measured_and_files_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(scale, "_apart", scale.cost_of_run)  # a process of its own would import everything again
    sizes = [f"--from={name}={size}" for name, size in SIZES.items()]
    less = [
        "--set=federation={rounds: 1, local_epochs: 1}",
        "--set=ctr={model: logistic, baselines: [], max_epochs: 1}",
    ]
    status, out, _ = fedmm(
        capsys, "bench", "scale", "synthetic", "--axis=codes", "--doublings=1", *sizes, *less, "--json"
    )
    assert status == 0
    (row,) = json.loads(out)["rows"]
    assert row["what"] == "codes"
    assert all(point["seconds"]["value"] > 0 and point["memory"]["value"] > 1e7 for point in row["points"])
    for wrong, said in (("xmarket", "data.synthetic"), ("--from=users=many", "users=4000"), ("--axis=time", "markets")):
        status, _, error = fedmm(capsys, "bench", "scale", wrong)
        assert status == 2
        assert said in error
