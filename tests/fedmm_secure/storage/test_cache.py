import json
import shutil
import threading

import numpy as np
import pytest

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import EmbeddingConfig
from fedmm_secure.data.prepare import market_digest, prepare_markets
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.cache import Cache
from tests.conftest import TINY, alone, tiny

pytestmark = pytest.mark.usefixtures("few_trees")

EVERY = ["popularity", "svd", "local-ids", "local-codes", "federated-codes", "boosted-scores"]
SMALL = TINY["data"]["synthetic"] | {"markets": 2, "users": 30, "items": 20, "mean_interactions": 8}
WITHOUT_CODES = {"popularity", "svd", "local-ids", "boosted-scores"}


def entries(cache):
    return [json.loads(path.read_text()) for path in sorted(cache.directory.rglob("*.json"))]


def predictions(directory, market="m0"):
    return {path.stem: np.load(path)["probability"] for path in (directory / "state" / "ctr" / market).glob("*.npz")}


def every(**sections):
    """Every baseline, of no more markets and epochs than it takes."""
    least = {
        "aggregation": {"kind": "ckks"},
        "data": {"synthetic": SMALL},
        "federation": {"rounds": 2, "allow_small_cohort": True},
        "ctr": {"baselines": EVERY, "max_epochs": 1},
    }
    merged = {key: least[key] | value if key in least else value for key, value in sections.items()}
    return tiny(**least | merged)


def run(config, directory, cache=None):
    return run_pipeline(alone(config, directory), prepare_markets(config.data), directory, cache=cache)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Predictions of a run with every baseline and no cache."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    run(every(), directory)
    return predictions(directory)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A run with every baseline, beside the cache that it filled."""
    folder = tmp_path_factory.mktemp("filled")
    run(every(), folder / "run", Cache(folder / "cache"))
    return folder


@pytest.fixture
def cache(filled, tmp_path):
    return Cache(shutil.copytree(filled / "cache", tmp_path / "cache"))


def test_what_was_computed_is_not_computed_again(tmp_path):
    cache, calls = Cache(tmp_path), []

    def compute():
        calls.append(1)
        return {"x": np.arange(3)}

    first, second = (cache.arrays({"a": 1}, compute) for _ in range(2))
    np.testing.assert_array_equal(first["x"], second["x"])
    cache.arrays({"a": 2}, compute)
    assert len(calls) == 2


def test_who_comes_second_waits_for_the_first(tmp_path):
    calls, started, go_on = [], threading.Event(), threading.Event()

    def slow():
        calls.append(1)
        started.set()
        assert go_on.wait(10)
        return {"x": np.ones(1)}

    threads = [threading.Thread(target=Cache(tmp_path).arrays, args=({"a": 1}, slow)) for _ in range(2)]
    threads[0].start()
    assert started.wait(10)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1


def test_a_file_that_was_cut_short_is_computed_again(tmp_path):
    cache = Cache(tmp_path)
    cache.arrays({"a": 1}, lambda: {"x": np.ones(2)})
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:20])
    np.testing.assert_array_equal(cache.arrays({"a": 1}, lambda: {"x": np.ones(2)})["x"], np.ones(2))


def test_other_code_does_not_find_the_result(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.arrays({"a": 1}, lambda: {"x": np.ones(1)})
    monkeypatch.setattr("fedmm_secure.storage.cache.code_version", lambda: "another")
    assert cache.arrays({"a": 1}, lambda: {"x": np.zeros(1)})["x"] == 0


def test_a_market_is_known_by_its_rows_and_candidates(tiny_markets):
    digests = {market_digest(prepared) for prepared in tiny_markets.values()}
    assert len(digests) == 3
    same = prepare_markets(tiny().data)["m0"]
    assert market_digest(same) == market_digest(tiny_markets["m0"])
    for change in ({"candidate_seed": 1}, {"min_item_train": 6}, {"negatives": "popularity"}, {"split": "global-date"}):
        other = prepare_markets(tiny().data.model_copy(update=change))["m0"]
        assert market_digest(other) != market_digest(same), change


def test_a_run_with_a_cache_equals_one_without_and_fills_it_once(reference, filled, cache, tmp_path):
    kept = entries(cache)
    run(every(), tmp_path / "run", cache)
    assert entries(cache) == kept  # the second found everything
    first, found = predictions(filled / "run"), predictions(tmp_path / "run")
    assert reference.keys() == first.keys() == found.keys()
    for name in reference:
        np.testing.assert_array_equal(reference[name], first[name])
        np.testing.assert_array_equal(reference[name], found[name])
    models = [(folder / "run" / "models" / "m0" / "ctr-0.npz").read_bytes() for folder in (filled, tmp_path)]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    "section",
    [
        {
            "quantizer": {"global_codes": 4},
            "federation": {"rounds": 1},
            "embedding": {"dim": 6},
            "aggregation": {"kind": "plaintext"},
            "ctr": {"features": ["scores", "counts"]},
        },
        {"ctr": {"model": "logistic", "features": ["scores", "counts"]}},
    ],
)
def test_what_a_baselines_key_leaves_out_does_not_change_it(reference, tmp_path, section):
    """If one of these sections mattered to a model without codes, runs would share a wrong result."""
    run(every(**section), tmp_path / "run")
    changed = predictions(tmp_path / "run")
    shared = [name for name in reference if name.rsplit("-0", 1)[0] in WITHOUT_CODES]
    assert len(shared) == len(WITHOUT_CODES)
    for name in shared:
        np.testing.assert_array_equal(reference[name], changed[name])


@pytest.mark.parametrize(
    "section",
    [
        {"ctr": {"max_epochs": 2}},
        {"ctr": {"refit": False}},
        {"ctr": {"dim": 5}},
        {"data": {"negatives_per_positive": 3}},
        {"data": {"candidate_seed": 1}},
        {"seed": [1]},
    ],
)
def test_what_a_model_depends_on_is_in_its_key(cache, tmp_path, section):
    changed = every(**section)
    run(changed, tmp_path / "a" / "run", cache)
    run(changed, tmp_path / "b" / "run")
    with_cache, without = (predictions(tmp_path / name / "run") for name in "ab")
    for name in without:
        np.testing.assert_array_equal(with_cache[name], without[name])


@pytest.mark.parametrize("protect", ["federation", "release"])
def test_nothing_that_carries_noise_is_shared(tmp_path, protect):
    cache = Cache(tmp_path / "cache")
    data, baselines = {"synthetic": SMALL | {"markets": 3}}, ["popularity", "boosted-scores"]
    privacy = {"epsilon": 8, "protect": protect, "ctr": {"steps": 10}, "quantizer": {"steps_per_round": 1}}
    config = tiny(data=data, privacy=privacy, federation={"rounds": 2}, ctr={"baselines": baselines})
    run(config, tmp_path / "runs" / "a", cache)
    kept = entries(cache)
    assert {found["recipe"]["name"] for found in kept if "recipe" in found} == {"boosted-scores"}
    assert all(found.get("codes") is None for found in kept)
    run(config, tmp_path / "runs" / "b", cache)
    first, second = (predictions(tmp_path / "runs" / name) for name in "ab")
    np.testing.assert_array_equal(first["boosted-scores-0"], second["boosted-scores-0"])
    if protect == "release":
        assert (first["fedmm-0"] != second["fedmm-0"]).any()  # fresh noise


def test_light_gcn_is_restored_as_it_was(tmp_path, tiny_markets):
    config, cache = EmbeddingConfig(kind="lightgcn", dim=4, epochs=2), Cache(tmp_path)
    fresh = fit_embedding(tiny_markets["m0"], config)
    for _ in range(2):
        found = fit_embedding(tiny_markets["m0"], config, cache)
        np.testing.assert_array_equal(found.user_factors_, fresh.user_factors_)
        np.testing.assert_array_equal(found.item_factors_, fresh.item_factors_)
    assert len(entries(cache)) == 1
