"""A run whose test figures the budget pays for: what it charges and states, what it says nothing of, what is found."""

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from experiments.reports.run import write_report
from experiments.reports.screen import Finished, show
from experiments.runs.comparison import compare_runs, comparison_table, draw_comparison
from experiments.runs.tracking import scalars
from experiments.sweep.table import _rows
from experiments.verification import verify_run
from experiments.verification.run import Examination
from fedmm_secure import pipeline
from fedmm_secure.ctr.private_evaluation import noisy_figures, release_histograms
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation import releases
from fedmm_secure.federation.door import Door
from fedmm_secure.guarantee.stages import EVALUATION
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.encoding import arrays_bytes, read_arrays
from fedmm_secure.storage.run_directory import read_metrics
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.ledger import read_ledger
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny
from tests.forgery import Forgery
from tests.handing_out import page_travels

MARKETS = ("m0", "m1", "m2")
PUBLISHED = "evaluation/0000-publication-m0.bin"


def settings(**shares):
    return tiny(
        seed=[0, 1],
        data={"synthetic": {"markets": 3, "users": 240, "items": 40, "mean_interactions": 10}},
        privacy={
            "epsilon": 12.0,
            "protect": "release",
            "ctr": {"steps": 6},
            "quantizer": {"steps_per_round": 1},
            "shares": {"evaluation": 2.0, **shares},
        },
        embedding={"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}},
        ctr={"baselines": ["popularity"]},
    )


def run(directory, config):
    if not directory.exists():
        run_directory.create(directory, config)
    return run_pipeline(config, prepare_markets(config.data), directory)


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was killed before any test row was read; others go on from copies of it."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with patch.object(pipeline, "release_test_figures", side_effect=KilledError), pytest.raises(KilledError):
        run(directory, settings())
    return directory


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    """A run, and by market the candidates and probabilities that its histograms were made of."""
    directory, seen = Path(shutil.copytree(trained, tmp_path_factory.mktemp("noisy") / "run")), []

    def recorded(candidates, probabilities, *given, **named):
        seen.append((candidates, probabilities))
        return release_histograms(candidates, probabilities, *given, **named)

    with patch.object(releases, "release_histograms", recorded):
        run(directory, settings())
    assert len(seen) == len(MARKETS)
    return directory, dict(zip(MARKETS, seen, strict=True))


def test_it_is_charged_and_sealed_last_and_every_view_of_models_pays_for_it(finished):
    directory, _ = finished
    statements = read_metrics(directory)["privacy"]["markets"]
    for market in MARKETS:
        ledger = read_ledger(directory / "ledger" / f"{market}.jsonl")
        charge = ledger.charges[-1]
        assert charge.entry.stage == EVALUATION
        assert charge.entry.audience == ("consumer", "release")
        assert charge.sequence in ledger.seals
        assert statements[market]["stages"][EVALUATION]["epsilon"] > 1
        without = [found.entry.event for found in ledger.charges if found.entry.stage != EVALUATION]
        assert statements[market]["release"]["epsilon"] > pld_epsilon(without, charge.entry.delta) + 0.5
        assert statements[market]["release"]["epsilon"] <= 12.0
        assert statements[market]["market"]["epsilon"] < statements[market]["release"]["epsilon"] - 0.5
    assert verify_run(directory) == []


def numbers(value):
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [float(value)] if type(value) in (int, float) else []


def test_the_metrics_hold_no_exact_figure_of_test_rows(finished):
    directory, _ = finished
    metrics = read_metrics(directory)
    assert metrics["privacy"]["evaluation"] == {"private": True}
    stated = np.array(numbers({key: metrics[key] for key in ("markets", "macro")}))
    config = settings()
    for market, prepared in prepare_markets(config.data).items():
        frame = pd.read_parquet(directory / "predictions" / f"{market}.parquet")
        models = [name for name in frame.columns if "/" in name]
        assert {name.rsplit("/", 1)[0] for name in models} == {"fedmm", "popularity"}
        exact = [measure(frame["label"], frame[name]) for name in models for measure in (roc_auc_score, log_loss)]
        exact += [len(frame), prepared.market.n_rows, len(prepared.split.train)]
        for figure in exact:
            assert not np.isclose(stated, figure, rtol=1e-9, atol=0).any()
        assert set(metrics["markets"][market]) == {
            "auc", "auc_interval", "auc_by_seed", "logloss", "logloss_interval", "baselines", "n_users", "n_items",
        }  # fmt: skip
    assert "candidates" not in (directory / "metrics.json").read_text()


def test_the_page_is_drawn_from_what_is_handed_out_alone(finished, tmp_path):
    found = page_travels(finished[0], tmp_path, released=True)
    assert found == ([], ["report.html is the page of the run"])
    page = (tmp_path / "handed" / finished[0].name / "report.html").read_text()
    assert "the rows are synthetic" in page


def test_figures_are_those_of_the_published_models_on_each_users_own_candidates(finished):
    """Off the figures of the binned scores by less than 6 standard deviations: false alarm 1e-7 at most, of 24 checks;
    and equal to them as the noise goes to 0.
    """
    directory, seen = finished
    metrics = read_metrics(directory)
    for market, (candidates, probabilities) in seen.items():
        silent = release_histograms(candidates, probabilities, 1e-3, NoiseSource.from_seed(0), per_positive=4)
        own = metrics["markets"][market]
        for seed, (probability, found) in enumerate(zip(probabilities, noisy_figures(silent), strict=True)):
            assert found.auc.value == pytest.approx(roc_auc_score(candidates.label, probability), abs=0.01)
            assert found.logloss.value == pytest.approx(log_loss(candidates.label, probability), abs=0.01)
            deviation = (own["auc_interval"]["high"] - own["auc"]) / 1.96 * np.sqrt(2)
            assert abs(own["auc_by_seed"][seed] - found.auc.value) < 6 * deviation
        # pairs that the exact evaluation has too: the same predictions
        frame = pd.read_parquet(directory / "predictions" / f"{market}.parquet")
        columns = (frame[name] for name in ("user", "item", "fedmm/1"))
        exact = {(user, item): score for user, item, score in zip(*columns, strict=True)}
        pairs = zip(candidates.user, candidates.item, probabilities[1], strict=True)
        both = [(score, exact[user, item]) for user, item, score in pairs if (user, item) in exact]
        assert len(both) > 100
        np.testing.assert_allclose(*np.array(both).T, atol=1e-6)


@pytest.mark.parametrize("moment", ["computed", "kept", "released"])
def test_a_resumed_run_gives_the_same(trained, tmp_path, monkeypatch, moment):
    """Noise is the operating system's; what was drawn, or whose key was drawn, is not drawn again."""
    config, drawn = settings(), []
    shutil.copytree(trained, tmp_path / "run")

    def computed(*given, **named):
        found = release_histograms(*given, **named)
        drawn.append(found.counts)
        if moment == "computed" and len(drawn) == 2:
            raise KilledError
        return found

    with monkeypatch.context() as broken:
        broken.setattr(releases, "release_histograms", computed)
        if moment != "computed":
            where = "_record" if moment == "released" else "seal"
            original = getattr(Door, where)

            def dying(self, about, *given, **named):
                stage = getattr(about, "stage", None) or about.charge.entry.stage
                if stage == EVALUATION:
                    raise KilledError
                return original(self, about, *given, **named)

            broken.setattr(Door, where, dying)
        with pytest.raises(KilledError):
            run(tmp_path / "run", config)
    again = []

    def recorded(*given, **named):
        found = release_histograms(*given, **named)
        again.append(found.counts)
        return found

    monkeypatch.setattr(releases, "release_histograms", recorded)
    run(tmp_path / "run", config)
    if moment == "computed":
        np.testing.assert_array_equal(again[0], drawn[1])  # the second market's, with the key that was charged
    assert len(again) == (2 if moment == "computed" else 3 - len(drawn))
    assert verify_run(tmp_path / "run") == []
    for market, counts in zip(MARKETS, [*drawn, *again] if moment != "computed" else [drawn[0], *again], strict=True):
        kept = np.load(tmp_path / "run" / "state" / "private" / market / "evaluation.npz")["counts"]
        np.testing.assert_array_equal(kept, counts)


# what is found


def copy(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    return directory


def findings(directory):
    return "\n".join(f"{found.where}: {found.what}" for found in verify_run(directory))


def changed_metrics(change):
    return lambda forged: forged.json("metrics.json", change)


def better(metrics):
    metrics["markets"]["m1"]["auc"] = 0.99


def better_macro(metrics):
    metrics["macro"]["auc_interval"]["low"] += 0.01


def an_exact_figure(metrics):
    metrics["markets"]["m0"]["gauc"] = 0.7


def said_to_be_exact(metrics):
    metrics["privacy"]["evaluation"] = {"private": False}


def other_histograms(change):
    def apply(forged):
        arrays = read_arrays(forged.read(PUBLISHED))
        forged.replace(PUBLISHED, arrays_bytes(change(arrays)))

    return apply


FORGERIES = {
    "an AUC of .99": (changed_metrics(better), "market m1, auc: says 0.99"),
    "a narrower interval": (changed_metrics(better_macro), "macro, auc_interval.low"),
    "an exact figure beside": (changed_metrics(an_exact_figure), "market m0, gauc: says 0.7"),
    "another kind of figures": (changed_metrics(said_to_be_exact), "privacy.evaluation: says {'private': False}"),
    "other counts": (other_histograms(lambda found: {**found, "counts": 2 * found["counts"]}), "market m0, logloss"),
    "counts without noise": (other_histograms(lambda found: {**found, "counts": found["counts"] + 0.123}),
                             "evaluation: values are not multiples of the public grid's step"),
    "less noise, it says": (other_histograms(lambda found: {**found, "noise": found["noise"] / 2}),
                            "evaluation: says noise"),
    "an extra repetition": (other_histograms(lambda found: {**found, "counts": np.concatenate([found["counts"]] * 2)}),
                            "evaluation: "),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_its_owner_cannot_state_other_figures(finished, tmp_path, name):
    forge, found = FORGERIES[name]
    forged = Forgery(copy(finished, tmp_path))
    forge(forged)
    forged.finish(owner=True)
    assert found in findings(forged.directory)


# readers


def drowned(directory):
    """The same run, had noise left nothing to say."""
    path = directory / "metrics.json"
    metrics = json.loads(path.read_text())
    for values in (*metrics["markets"].values(), metrics["macro"]):
        values.update(dict.fromkeys(("auc", "auc_interval", "logloss", "logloss_interval")))
        if "auc_by_seed" in values:
            values["auc_by_seed"] = [None, None]
    path.write_text(json.dumps(metrics))
    return directory


def test_no_reader_needs_more_than_there_is(finished, tmp_path, capsys):
    directory = copy(finished, tmp_path / "one")
    page = write_report(directory).read_text()
    assert "within the guarantee" in page
    assert "outside the guarantee" not in page
    assert "test rows kept" not in page
    assert "RQ-VAE loss" not in page
    metrics_of_all = read_metrics(directory)["macro"]
    nothing = drowned(copy(finished, tmp_path / "other"))
    assert "macro test AUC, – for the noise" in write_report(nothing).read_text()
    for path in (directory, nothing):
        metrics = read_metrics(path)
        show(Finished(path, settings(), metrics, Examination({})), [])
        assert {row["metric"] for row in _rows(path)} >= {"epsilon", "rounds"}
        assert len([name for name, _, _ in scalars("finished", metrics) if "auc" in name]) == (4, 0)[path is nothing]
    shown, drowned_out = capsys.readouterr().out.split("report    ")[:2]
    assert f"{metrics_of_all['auc']:.3f} [" in shown  # noisy, and how much
    assert "–" in drowned_out
    table = comparison_table(compare_runs([directory, nothing]))
    assert table["auc"].isna().sum() == 3
    assert table["difference"].isna().all()
    draw_comparison(table)
    same = compare_runs([directory, directory])
    assert not any(row.paired for row in same)  # no exact predictions are compared


def test_it_needs_clicks():
    with pytest.raises(ConfigError, match=r"privacy\.shares\.evaluation needs data\.label: click"):
        tiny(data={"label": "like"}, privacy={"epsilon": 8, "protect": "release", "shares": {"evaluation": 0.1}})
