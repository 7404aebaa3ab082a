import numpy as np
import pandas as pd
import pytest
import torch

from experiments.reports.codebook import codebook_of
from experiments.reports.run_figures import (
    MANY_MARKETS,
    draw_accuracy,
    draw_map,
    draw_movement,
    draw_usage,
    run_drawings,
)
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import read_metrics
from tests.conftest import tiny
from tests.released import release_configuration


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, config = tmp_path_factory.mktemp("run") / "run", tiny()
    run_pipeline(config, prepare_markets(config.data), out)
    return out, config


def test_the_codebook_moves_as_the_sums_say(finished):
    """The movements of all rounds lead from the common start to where the markets ended."""
    from fedmm_secure.quantization.build import initial_model

    out, config = finished
    drawn = draw_movement(out, config).data
    weights = torch.load(out / "models" / "m1" / "quantizer-0.pt", weights_only=True)
    end = weights["global_codebook.codewords"].numpy()
    start = initial_model(config, 0).global_codebook.codewords.detach().numpy()
    rounds = drawn[[column for column in drawn if column.startswith("round")]]
    assert rounds.shape == (config.quantizer.global_codes, config.federation.rounds)
    assert (rounds.sum(axis=1).to_numpy() >= np.linalg.norm(end - start, axis=1) - 1e-4).all()
    assert (rounds.to_numpy() > 0).any()


def test_usage_is_that_of_the_codes(finished):
    out, config = finished
    drawn = draw_usage(config, codebook_of(out, config, read_metrics(out))).data
    codes = pd.read_parquet(out / "codes" / "m0.parquet")["global_code"]
    first = drawn[drawn["market"] == "m0"].iloc[0]
    assert first["share"] == pytest.approx(codes.value_counts(normalize=True).iloc[0])
    assert drawn.groupby("market")["share"].sum().tolist() == pytest.approx([1.0] * 3)


def test_under_a_budget_usage_is_that_of_the_published_item_codes(released_run):
    config = release_configuration(user_codes_epsilon=2.0)
    found = codebook_of(released_run, config, read_metrics(released_run))
    codes = pd.read_parquet(released_run / "codes" / "m1.parquet")
    of_items = codes.loc[codes["kind"] == "item", "global_code"]
    used = of_items.value_counts(normalize=True)
    assert found.shares["m1"][used.index] == pytest.approx(used.to_numpy())
    assert list(found.shares) == ["m0", "m1", "m2"]
    words = torch.load(released_run / "models" / "m0" / "quantizer-0.pt", weights_only=True)
    assert np.array_equal(found.words, words["global_codebook.codewords"].numpy())


def test_the_map_keeps_distances_within_its_plane(finished):
    out, config = finished
    drawn = draw_map(config, codebook_of(out, config, read_metrics(out)))
    words = torch.load(out / "models" / "m0" / "quantizer-0.pt", weights_only=True)["global_codebook.codewords"].numpy()
    plane = drawn.data[["x", "y"]].to_numpy()
    for i, j in ((0, 1), (2, 5)):
        assert np.linalg.norm(plane[i] - plane[j]) <= np.linalg.norm(words[i] - words[j]) + 1e-6
    assert drawn.notes.keys() == {f"code-{code}" for code in range(config.quantizer.global_codes)}


def test_a_run_without_log_or_transcript_has_fewer_figures(finished, tmp_path):
    out, config = finished
    metrics = read_metrics(out)
    assert set(run_drawings(out, config, metrics)) == {"accuracy", "usage", "movement", "map", "communication"}
    assert set(run_drawings(tmp_path, config, metrics)) == {"accuracy"}


@pytest.mark.parametrize("count", [3, MANY_MARKETS + 2])
def test_accuracy_is_drawn_for_screen_and_phone(count):
    names = [f"m{number}" for number in range(count)]
    markets = {
        name: {"auc": 0.6, "baselines": {"popularity": {"auc": None if name == "m1" else 0.7}}}
        for name in sorted(names)
    }
    drawn = draw_accuracy({"markets": markets, "macro": {"baselines": {"popularity": {}}}})
    assert list(dict.fromkeys(drawn.data["market"])) == names  # m2 before m10
    assert drawn.notes["mark-1-m0"] == "popularity in m0: AUC 0.700"
    assert drawn.notes["mark-1-m1"] == "popularity in m1: AUC –"
    for figure in (drawn.figure, drawn.narrow):
        marks = {
            artist.get_gid() for artist in figure.findobj(lambda artist: (artist.get_gid() or "").startswith("mark"))
        }
        assert marks == drawn.notes.keys()
    assert drawn.narrow.get_figheight() > drawn.narrow.get_figwidth() or count == 3
