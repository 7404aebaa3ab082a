"""Rows above the noise: entries of noised sums that no number of users, and no draw, comes to."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.verification import examine_run
from experiments.verification.payloads import sum_problem
from fedmm_secure.ctr.models.private import standardisation
from fedmm_secure.ctr.pseudo_examples import own_seed, pseudo_examples
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.foreign.formats import unpickle_tensors
from fedmm_secure.guarantee import expected_arrays, publications
from fedmm_secure.guarantee.expected_arrays import OFF_GRID
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.noisy_figures import NOISY_FIGURES
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.score_bins import N_BINS, contribution
from fedmm_secure.guarantee.stages import EVALUATION, SHARED_GRAM
from fedmm_secure.quantization.build import model_of
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from privacy.mechanisms.discrete_gaussian import most_drawn, scale
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.histograms import grid_weights, noise_of
from tests.adversary.test_constants_of_models import arrays_of, publish
from tests.conftest import tiny
from tests.fedmm_secure.federation.test_shared_catalogue import DATA
from tests.forgery import Forgery
from tests.manipulations import ROWS

COUNTS, FACTORS = "counts/0000-publication-m0.bin", "embedding/0000-publication-m0.bin"
ABOVE = 2**29  # grid units: 600 users, beyond the largest draw


def findings(run):
    return {name: [one.what for one in found] for name, found in examine_run(run).checks.items() if found}


def below_nothing(arrays, chosen):
    """Three bytes of rows in each count that chooses no item, below any that would."""
    grid = Grid.of(float(arrays["noise"]))
    integers = np.rint(arrays["values"] / grid.step).astype(np.int64)
    rest = np.setdiff1d(np.arange(len(integers)), chosen)
    parts = np.frombuffer(ROWS[: 3 * len(rest)], np.uint8).reshape(-1, 3).astype(np.int64) @ (256 ** np.arange(3))
    integers[rest] -= (1 + parts) * ABOVE
    return arrays | {"values": grid.real(integers)}


@pytest.fixture
def rows_in_counts(released_copy):
    """The owner's, who computes what follows from counts."""
    config = examine_run(released_copy).plans["m0"].config
    run = Forgery(released_copy)
    kept = read_arrays(run.read(FACTORS))
    counts = below_nothing(dict(read_arrays(run.read(COUNTS))), kept["items"])
    run.replace(COUNTS, arrays_bytes(counts))
    state = unpickle_tensors(run.read("quantizer-model/0/0000-publication-m0.bin"), "here")
    quantizer = model_of(config, {name: value.numpy() for name, value in state.items()})
    embedding = released_embedding(config, counts, dict(kept))
    pseudo = pseudo_examples(
        embedding, quantizer, config.data, config.ctr, config.privacy.pseudo_users, own_seed("m0", 0)
    )
    publish(run, arrays_of(run) | dict(zip(("centre", "spread"), standardisation(pseudo), strict=True)))
    return released_copy


def test_rows_above_the_noise_of_counts(rows_in_counts):
    assert any("more than users and noise come to" in what for what in findings(rows_in_counts)["publications"])


def test_they_verified(rows_in_counts, monkeypatch):
    monkeypatch.setattr(
        publications, "on_grid", lambda values, grid, most: expected_arrays.on_grid(values, grid, 2**53)
    )
    assert findings(rows_in_counts) == {}


def test_rows_above_the_noise_of_histograms():
    most, users, noise = contribution(4), 80, 6.0
    plan = SimpleNamespace(
        noise={EVALUATION: noise}, size=MarketSize(users, 40), config=tiny(data={"negatives_per_positive": 4})
    )
    weights, reach = grid_weights(noise, 1, most)[:, None], int(Grid.of(noise).most(users))
    units = np.zeros((1, *weights.shape[:1], N_BINS), np.int64)
    stated = {"noise": np.array(noise_of(noise, 1, most))}
    for entry, found in ((reach, None), (-reach, None), (reach + 1, OFF_GRID), (2**60, OFF_GRID)):
        units[0, 0, 0] = entry
        assert NOISY_FIGURES.problem(plan, stated | {"counts": units / weights}) == found


@pytest.mark.parametrize("levels", [2, 3])
def test_what_users_and_noise_come_to(levels):
    grid = Grid.of(0.7, levels=levels)
    assert grid.most(0) == most_drawn(levels)
    assert grid.most(80) - grid.most(0) == pytest.approx(80 * scale(levels) / 0.7)
    assert grid.most(80) * grid.step == pytest.approx(80 + most_drawn(levels) * grid.step)


@pytest.mark.parametrize("kind", ["masked-ckks", "ckks"])
def test_rows_in_a_sum_over_a_shared_catalogue(kind):
    """Co-occurrence had the range of times, the other sum of the same markets: 17 bits of rows above each entry."""
    sizes = {f"m{number}": MarketSize(60, 30) for number in range(3)}
    config = tiny(data=DATA, embedding={"dim": 4, "shared_items": 25}, aggregation={"kind": kind})
    plan = SpendingPlan.of(config, "m0", sizes)
    travels = AggregationPlan.of(config, sizes).of_stage(SHARED_GRAM)
    total, users = np.zeros(travels.values, "<i8"), 180
    for entry in (users, -users):
        total[-1] = entry
        assert sum_problem(travels, total.tobytes(), plan.sums) is None
    for entry in (users + 1, 2**17 * users):
        total[-1] = entry
        assert sum_problem(travels, total.tobytes()) is None  # as it was
        assert "outside -180 to 180" in sum_problem(travels, total.tobytes(), plan.sums)
