"""A run under ``protect: release``: what it states, what it lets out, and what verification says of other runs."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attacks.views import release_view
from experiments.assessment.attack import attack_run
from experiments.assessment.findings import beyond_bounds
from experiments.verification import verify_run
from fedmm_secure import pipeline
from fedmm_secure.data.prepare import prepare, prepare_markets
from fedmm_secure.federation import releases
from fedmm_secure.federation.budget import BudgetExceededError
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.storage import run_directory
from privacy.accounting.events import event_from_data, is_part_of
from privacy.accounting.guarantees import composed_epsilon, view_entries
from privacy.accounting.ledger import read_ledger
from tests.conftest import tiny
from tests.released import BASELINES, PRIVATE, RELEASE, run_release

pytestmark = pytest.mark.usefixtures("few_trees")


def config(**privacy):
    """Everything released by one round and a few steps."""
    few = {**RELEASE, "ctr": {"steps": 4}, **privacy}
    return tiny(privacy=few, embedding=PRIVATE, ctr=BASELINES, federation={"rounds": 1})


@pytest.fixture(scope="module")
def released(released_run):
    """Metrics and directory."""
    return json.loads((released_run / "metrics.json").read_text()), released_run


def findings(directory):
    return "\n".join(f"{found.where}: {found.what}" for found in verify_run(directory))


def entries_of(directory, market):
    return read_ledger(directory / "ledger" / f"{market}.jsonl").entries


def test_every_view_has_a_bound_and_the_whole_chain_is_in_it(released):
    metrics, directory = released
    for name, views in metrics["privacy"]["markets"].items():
        assert views["market"]["epsilon"] < views["release"]["epsilon"] <= 8.0
        assert views["release"]["epsilon"] > 7.5
        assert views["consumer"]["epsilon"] == views["release"]["epsilon"]
        paid = [entry for entry in entries_of(directory, name) if entry.stage.split("/")[0] in publication_stages()]
        spent = composed_epsilon([entry.event for entry in paid], paid, paid[0].delta)
        assert views["release"]["epsilon"] == pytest.approx(spent)
        assert {stage for stage, value in views["stages"].items() if value} == publication_stages()
        changed = views["release"]["changed_rows"]
        assert changed["epsilon"] is None or changed["epsilon"] == pytest.approx(2 * views["release"]["epsilon"])
    assert findings(directory) == ""


def publication_stages():
    return {"counts", "embedding", "quantizer", "ctr"}


def test_what_changes_of_rows_mean_is_twice_epsilon(tmp_path):
    views = run_release(tmp_path / "run", config(epsilon=1.0))["privacy"]["markets"]["m0"]
    epsilon, delta = views["release"]["epsilon"], views["release"]["delta"]
    changed = views["release"]["changed_rows"]
    assert changed["epsilon"] == pytest.approx(2 * epsilon)
    assert changed["delta"] == pytest.approx((1 + np.exp(epsilon)) * delta)


def test_the_release_view_holds_models_and_items_and_no_user_codes(released):
    """Randomised ones are for the ``profile`` view, whose ε counts them, and lie with what the market keeps."""
    view = release_view(released[1])
    assert {found.kind for found in view.observations} == {"publication", "meter"}  # spare values are noise alone
    published = [found for found in view.observations if found.kind == "publication"]
    stages = {found.stage.split("/")[0] for found in published}
    assert stages == {"counts", "embedding", "quantizer-model", "item-codes", "ctr"}
    assert len(published) == 3 * len(stages)
    kept = [record for record in Transcript(released[1] / "transcript").records if record.stage == "user-codes/0"]
    assert [(record.kind, record.visible_to) for record in kept] == [("meter", ("release",))] * 3
    own = [record for record in Transcript(released[1] / "private" / "m0").records if record.stage == "user-codes/0"]
    assert [(record.kind, record.visible_to) for record in own] == [("publication", ("profile",))]


def test_what_publishing_user_codes_costs_is_measured(released):
    costs = released[0]["markets"]["m0"]["baselines"]["published-user-codes"]
    assert 0 < costs["auc"] < 1
    assert "auc_gain_over_it" in costs


def test_user_codes_are_stated_under_profile_alone(released):
    views = released[0]["privacy"]["markets"]["m0"]
    assert "randomised response: epsilon 2" in views["profile"]["basis"] or views["profile"]["epsilon"] is None
    assert "randomise" in views["profile"]["basis"]


def test_published_user_codes_are_mostly_not_the_true_ones(released):
    own = Transcript(released[1] / "private" / "m0")
    published = own.find(kind="publication", stage="user-codes/0", round=0, sender="m0")
    codes = np.load(io.BytesIO(published))["codes"]
    frame = pd.read_parquet(released[1] / "codes" / "m0.parquet")
    true = frame[frame.kind == "user"][["global_code", "local_code"]].to_numpy()
    same = (codes == true).all(axis=1).mean()
    truth = np.exp(2) / (np.exp(2) + 63)
    assert same == pytest.approx(truth, abs=4 * (truth / len(true)) ** 0.5)


def test_a_publication_of_user_codes_by_the_pipeline_itself_is_found(tmp_path, monkeypatch):
    def with_users(model, users, items):
        codes = assign_codes(model, np.zeros((80, items.shape[1])), items)
        return replace(codes, item=np.concatenate([codes.item, codes.user]))

    monkeypatch.setattr(releases, "assign_codes", with_users)
    run_release(tmp_path / "run", config())
    assert "item-codes/0: codes is int64 of shape" in findings(tmp_path / "run")


def test_the_epsilon_of_one_market_reported_for_another_is_found(tmp_path):
    """Markets of different sizes have different delta, and so different epsilon."""
    settings = config()
    markets = prepare_markets(settings.data)
    fewer = markets["m1"].whole.market
    keep = fewer.user < 60
    columns = {field: getattr(fewer, field)[keep] for field in ("user", "item", "rating", "time")}
    markets["m1"] = prepare(replace(fewer, user_ids=fewer.user_ids[:60], **columns), settings.data)
    run_directory.create(tmp_path / "run", settings)
    run_pipeline(settings, markets, tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    assert findings(tmp_path / "run") == ""
    metrics["privacy"]["markets"]["m1"] = metrics["privacy"]["markets"]["m0"]
    path.write_text(json.dumps(metrics))
    assert "market m1, " in findings(tmp_path / "run")


def test_what_does_not_fit_the_budget_is_refused_before_a_row_is_read(tmp_path, monkeypatch):
    """The noise of a stage is planned for one repetition, and the stage runs twice as often."""
    begin = pipeline.begin_ctr

    def twice(federation, market):
        found = begin(federation, market)
        federation.doors[market].begin(federation.plans[market].ctr(1))
        return found

    monkeypatch.setattr(pipeline, "begin_ctr", twice)
    with pytest.raises(BudgetExceededError, match=r"stage ctr/1: .* nothing was sent"):
        run_release(tmp_path / "run", config())
    assert {entry.stage for entry in entries_of(tmp_path / "run", "m0")} >= {"ctr/0"}
    assert "ctr/1" not in {entry.stage for entry in entries_of(tmp_path / "run", "m0")}


def test_runs_on_the_same_data_add_up(tmp_path):
    first = run_release(tmp_path / "a", config())["privacy"]["markets"]["m0"]
    second = run_release(tmp_path / "b", config(epsilon=2.0))["privacy"]["markets"]["m0"]
    assert first["with_earlier_runs"]["earlier_runs"] == 0
    assert first["with_earlier_runs"]["release"]["epsilon"] == pytest.approx(first["release"]["epsilon"])
    together = second["with_earlier_runs"]
    assert together["earlier_runs"] == 1
    assert together["release"]["epsilon"] > first["release"]["epsilon"] > second["release"]["epsilon"]
    assert findings(tmp_path / "b") == ""
    third = run_release(tmp_path / "c", tiny(ctr={"baselines": []}, federation={"rounds": 1}))  # without DP
    assert third["privacy"]["markets"]["m0"]["with_earlier_runs"]["market"]["epsilon"] is None
    fourth = run_release(tmp_path / "d", config())["privacy"]["markets"]["m0"]
    assert fourth["release"]["epsilon"] <= 8.0
    assert fourth["with_earlier_runs"]["release"]["epsilon"] is None


def test_the_account_covers_at_least_what_the_run_released(released_run):
    """Planned and entered beforehand; what the ledger holds in the end is no more."""
    line = json.loads((released_run.parent / "privacy.account").read_text().splitlines()[1])["body"]
    entries = entries_of(released_run, "m0")
    for view in ("market", "release"):
        observed = view_entries(entries, view)
        events = [entry.event_for(view) for entry in observed]
        assert is_part_of(events, [event_from_data(line["events"][view])])
        assert sum(entry.coordinates for entry in observed) <= line["coordinates"]


def test_protect_federation_bounds_the_federation_and_says_what_it_does_not(tmp_path):
    metrics = run_release(
        tmp_path / "run",
        tiny(privacy={"epsilon": 4.0}, embedding=PRIVATE, ctr={"baselines": ["local-ids"]}, federation={"rounds": 1}),
    )
    views = metrics["privacy"]["markets"]["m0"]
    assert 3.8 < views["market"]["epsilon"] <= 4.0
    assert views["collusion"]["epsilon"] == views["market"]["epsilon"]
    assert views["consumer"]["epsilon"] is None
    assert views["release"]["epsilon"] is None
    assert findings(tmp_path / "run") == ""
    assert {found.kind for found in release_view(tmp_path / "run").observations} == {"meter"}
    (refinement,) = [entry for entry in entries_of(tmp_path / "run", "m0") if entry.stage == "refinement"]
    assert refinement.audience == ("consumer", "release")
    assert "stays in the market" in refinement.mechanism


def test_distributed_noise_is_whole_in_whatever_colluders_open(tmp_path):
    settings = tiny(
        privacy={**RELEASE, "distributed_noise": True, "epsilon": 4.0},
        aggregation={"kind": "masked-ckks"},
        federation={"rounds": 1},
        embedding=PRIVATE,
        ctr=BASELINES,
    )
    views = run_release(tmp_path / "run", settings)
    stated = views["privacy"]["markets"]["m0"]
    assert findings(tmp_path / "run") == ""
    assert stated["market"]["epsilon"] == stated["collusion"]["epsilon"] <= 4.0
    steps = [entry for entry in entries_of(tmp_path / "run", "m0") if entry.stage == "quantizer/0"]
    assert all("distributed over 3 markets" in entry.mechanism for entry in steps)


def test_the_released_model_can_be_attacked_through_shadow_pipelines(released_copy):
    run = released_copy
    rows = config().data
    found = attack_run(run, attacks=["membership"], market="m0", n_shadows=4, units=["user"], data=rows)
    assert {result["target"] for result in found["membership"]} == {"fedmm"}
    bounded = [result for result in found["membership"] if result["view"] in ("consumer", "release")]
    for result in bounded:
        # .67 on average, by .03: the noise of pipelines is fresh; published sums of 80 users give more away, about .85
        assert 0.3 < result["auc"]["value"] < {"consumer": 0.8, "release": 0.97}[result["view"]]
        stated = json.loads((run / "metrics.json").read_text())["privacy"]["markets"]["m0"][result["view"]]
        assert result["bound"]["epsilon"] == pytest.approx(stated["epsilon"])
    assert all(result["bound"] is None for result in found["membership"] if result["view"] == "profile")
    assert not beyond_bounds(found)


def test_a_result_beyond_its_bound_is_a_finding():
    result = {"market": "m0", "target": "fedmm", "view": "release", "attack": "LiRA", "unit": "user"}
    bound = {"epsilon": 1.0, "delta": 1e-4, "verdict": "BEYOND", "detects": 3.0, "targets": 960}
    assert beyond_bounds({"membership": [result | {"bound": bound}]}) == ["m0, fedmm, release, LiRA, user: BEYOND ε 1"]


def test_the_published_white_box_rebuilds_less_the_less_epsilon_admits(released_copy):
    """What an adversary reads from a private release is scored against the same truth as in any run."""
    run = released_copy
    rows = config().data
    found = attack_run(run, attacks=["reconstruction", "histories", "usage", "inversion"], market="m0", data=rows)
    assert all(result["published"] for result in found["reconstruction"] + found["histories"])
    views = {result["view"] for result in found["reconstruction"]}
    assert views == {"release and profile", "release", "server", "market", "collusion"}
