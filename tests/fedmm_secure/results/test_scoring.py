"""A run's models score pairs as they did in the run."""

import numpy as np
import pandas as pd
import pytest

from fedmm_secure import FedMM
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.errors import DataError
from tests.conftest import TINY, tiny

pytestmark = pytest.mark.usefixtures("few_trees")

SMALL = TINY["data"]["synthetic"] | {"users": 40, "items": 25}
MARKETS = {market.name: market for market in load_markets(tiny(data={"synthetic": SMALL}).data)}


def fitted(directory, **sections):
    merged = {key: value for key, value in TINY.items() if key != "data"} | {"federation": {"rounds": 1}}
    for key, value in sections.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return FedMM(**merged).fit(MARKETS, directory)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"seed": [0, 1]},
        {"ctr": {"model": "dcnv2", "average_local": True}},
        {"ctr": {"average_local": True}},
        {"ctr": {"model": "logistic", "codes": "local", "layers": ["local"], "baselines": []}},
        {"privacy": {"epsilon": 8}},
        {"privacy": {"epsilon": 8, "protect": "release"}, "ctr": {"baselines": ["popularity"]}},
        {"embedding": {"kind": "lightgcn", "epochs": 1}},
    ],
)
def test_predictions_of_test_pairs_are_those_of_the_run(tmp_path, sections):
    model = fitted(tmp_path / "run", **sections)
    for name, market in MARKETS.items():
        kept = pd.read_parquet(tmp_path / "run" / "predictions" / f"{name}.parquet")
        expected = kept[[column for column in kept if column.startswith("fedmm/")]].mean(axis=1)
        found = model.predict(name, market.user_ids[kept["user"]], market.item_ids[kept["item"]])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_items_outside_the_pool_have_no_score_and_strangers_are_named(tmp_path):
    model = fitted(tmp_path / "run", data={"min_item_train": 8})
    market = MARKETS["m0"]
    metrics = model.metrics_["markets"]["m0"]
    assert metrics["n_pool"] < market.n_items
    scores = model.predict("m0", [market.user_ids[0]] * market.n_items, market.item_ids)
    assert np.isfinite(scores).sum() == metrics["n_pool"]
    with pytest.raises(DataError, match="no user 'nobody'"):
        model.predict("m0", ["nobody"], [market.item_ids[0]])
    with pytest.raises(DataError, match="no item 'nothing'"):
        model.predict("m0", [market.user_ids[0]], ["nothing"])
    with pytest.raises(DataError, match="pairs are expected"):
        model.predict("m0", [market.user_ids[0]], [])
