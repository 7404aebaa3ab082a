"""A run under ``protect: release``: what it states, what it lets out, and the faults that verification must catch."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from attacks.views import release_view
from experiments import run_directory
from experiments.attack import attack_run, beyond_bounds
from experiments.verification import verify_run
from fedmm_secure import publication
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.door import BudgetExceededError, Door
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.quantization.codes import assign_codes
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.ledger import Ledger, read_ledger
from tests.conftest import tiny

RELEASE = {"epsilon": 8.0, "protect": "release", "ctr": {"steps": 10}, "quantizer": {"steps_per_round": 1}}
PRIVATE = {"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}}
BASELINES = {"baselines": ["popularity", "noisy-popularity", "noisy-recent-popularity"]}


def config(**privacy):
    return tiny(privacy={**RELEASE, **privacy}, embedding=PRIVATE, ctr=BASELINES)


def run(directory, settings):
    run_directory.create(directory, settings)
    return run_pipeline(settings, prepare_markets(settings.data), directory)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    directory = tmp_path_factory.mktemp("released") / "run"
    return run(directory, config(user_codes_epsilon=2.0)), directory


def findings(directory):
    return "\n".join(f"{found.where}: {found.what}" for found in verify_run(directory))


def copy_of(released, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(released[1], directory)
    return directory


def test_every_view_has_a_bound_and_the_whole_chain_is_in_it(released):
    metrics, directory = released
    for name, views in metrics["privacy"]["markets"].items():
        assert views["market"]["epsilon"] < views["release"]["epsilon"] <= 8.0
        assert views["release"]["epsilon"] > 7.5
        assert views["consumer"]["epsilon"] == views["release"]["epsilon"]
        entries, _ = read_ledger(directory / "ledger" / f"{name}.jsonl")
        spent = pld_epsilon(
            [e.event for e in entries if e.stage.split("/")[0] in publication_stages()], entries[0].delta
        )
        assert views["release"]["epsilon"] == pytest.approx(spent)
        assert {stage for stage, value in views["stages"].items() if value} == publication_stages()
        changed = views["release"]["changed_rows"]
        assert changed["epsilon"] is None or changed["epsilon"] == pytest.approx(2 * views["release"]["epsilon"])
    assert findings(directory) == ""


def publication_stages():
    return {"counts", "embedding", "quantizer", "ctr"}


def test_what_changes_of_rows_mean_is_twice_epsilon(tmp_path):
    views = run(tmp_path / "run", config(epsilon=1.0))["privacy"]["markets"]["m0"]
    epsilon, delta = views["release"]["epsilon"], views["release"]["delta"]
    changed = views["release"]["changed_rows"]
    assert changed["epsilon"] == pytest.approx(2 * epsilon)
    assert changed["delta"] == pytest.approx((1 + np.exp(epsilon)) * delta)


def test_the_release_view_holds_models_and_items_and_only_randomised_user_codes(released):
    view = release_view(released[1])
    assert {found.kind for found in view.observations} == {"publication"}
    stages = {found.stage.split("/")[0] for found in view.observations}
    assert stages == {"counts", "embedding", "quantizer-model", "item-codes", "ctr", "user-codes"}
    assert len(view.observations) == 3 * len(stages)


def test_what_publishing_user_codes_costs_is_measured(released):
    costs = released[0]["markets"]["m0"]["baselines"]["published-user-codes"]
    assert 0 < costs["auc"] < 1
    assert "auc_gain_over_it" in costs


def test_user_codes_are_stated_under_profile_alone(released):
    views = released[0]["privacy"]["markets"]["m0"]
    assert "randomised response: epsilon 2" in views["profile"]["basis"] or views["profile"]["epsilon"] is None
    assert "randomise" in views["profile"]["basis"]


def test_published_user_codes_are_mostly_not_the_true_ones(released):
    import io

    import pandas as pd

    view = release_view(released[1])
    published = next(found for found in view.observations if found.stage == "user-codes/0" and found.sender == "m0")
    codes = np.load(io.BytesIO(published.data))["codes"]
    frame = pd.read_parquet(released[1] / "codes" / "m0.parquet")
    true = frame[frame.kind == "user"][["global_code", "local_code"]].to_numpy()
    same = (codes == true).all(axis=1).mean()
    truth = np.exp(2) / (np.exp(2) + 63)
    assert same == pytest.approx(truth, abs=4 * (truth / len(true)) ** 0.5)


def reseal(directory, record_file, data, market):
    """Put other bytes into the transcript, with an index and a hash-chained ledger that fit: a dishonest market."""
    path = directory / "transcript" / record_file
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(data)
    new = hashlib.sha256(data).hexdigest()
    index = directory / "transcript" / "index.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for line in lines:
        if line["file"] == record_file:
            line |= {"sha256": new, "size": len(data)}
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ledger = directory / "ledger" / f"{market}.jsonl"
    entries, _ = read_ledger(ledger)
    ledger.unlink()
    fresh = Ledger(ledger)
    for entry in entries:
        fresh.append(replace(entry, message_sha256=new) if entry.message_sha256 == old else entry)


def test_user_codes_among_what_is_released_are_found(released, tmp_path):
    import io

    directory = copy_of(released, tmp_path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((40 + 80, 2), dtype=np.int64))  # items and users
    reseal(directory, "item-codes/0/0000-publication-m0.bin", buffer.getvalue(), "m0")
    assert "item-codes/0: codes of shape (120, 2)" in findings(directory)


def test_a_publication_of_user_codes_by_the_pipeline_itself_is_found(tmp_path, monkeypatch):
    def with_users(model, users, items):
        codes = assign_codes(model, np.zeros((80, items.shape[1])), items)
        return replace(codes, item=np.concatenate([codes.item, codes.user]))

    monkeypatch.setattr(publication, "assign_codes", with_users)
    run(tmp_path / "run", config())
    assert "item-codes/0: codes of shape" in findings(tmp_path / "run")


def test_a_publication_past_the_door_is_found(released, tmp_path):
    directory = copy_of(released, tmp_path)
    index = directory / "transcript" / "index.jsonl"
    record = next(r for r in map(json.loads, index.read_text().splitlines()) if r["stage"] == "counts")
    data = b"raw counts"
    record |= {"file": "counts/0000-extra-m0.bin", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "transcript" / record["file"]).write_bytes(data)
    index.write_text(index.read_text() + json.dumps(record) + "\n")
    assert "without a line in its ledger" in findings(directory)


def _drop(lines):
    return lines[:2] + lines[3:]


def _swap(lines):
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _edit(lines):
    return [line.replace('"sensitivity":1.0', '"sensitivity":0.5') for line in lines]


@pytest.mark.parametrize(("edit", "where"), [(_drop, "jsonl: 3"), (_swap, "jsonl: 2"), (_edit, "jsonl: 2")])
def test_a_ledger_line_dropped_swapped_or_edited_is_found_and_named(released, tmp_path, edit, where):
    directory = copy_of(released, tmp_path)
    path = directory / "ledger" / "m1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(edit(lines)))
    assert f"m1.{where}" in findings(directory)


def test_less_noise_in_a_consistent_ledger_than_the_claim_needs_is_found(released, tmp_path):
    """Noise halved and honestly ledgered, while the statement stays."""
    from dp_accounting.dp_event import GaussianDpEvent

    directory = copy_of(released, tmp_path)
    path = directory / "ledger" / "m0.jsonl"
    entries, _ = read_ledger(path)
    path.unlink()
    fresh = Ledger(path)
    for entry in entries:
        halved = entry.stage == "counts"
        fresh.append(replace(entry, event=GaussianDpEvent(entry.event.noise_multiplier / 2)) if halved else entry)
    assert "view release: claimed epsilon" in findings(directory)


def test_the_epsilon_of_one_market_reported_for_another_is_found(tmp_path):
    """Markets of different sizes have different delta, and so different epsilon."""
    settings = config()
    markets = prepare_markets(settings.data)
    fewer = markets["m1"].market
    keep = fewer.user < 60
    market = replace(
        fewer,
        user_ids=fewer.user_ids[:60],
        **{field: getattr(fewer, field)[keep] for field in ("user", "item", "rating", "time")},
    )
    from fedmm_secure.data.prepare import prepare

    markets["m1"] = prepare(market, settings.data)
    run_directory.create(tmp_path / "run", settings)
    run_pipeline(settings, markets, tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    assert findings(tmp_path / "run") == ""
    metrics["privacy"]["markets"]["m1"] = metrics["privacy"]["markets"]["m0"]
    path.write_text(json.dumps(metrics))
    assert "market m1, " in findings(tmp_path / "run")


def test_what_does_not_fit_the_budget_is_refused_before_it_is_published(tmp_path, monkeypatch):
    """The noise of a stage is planned for one repetition, and the stage runs twice as often."""
    publish = Door.publish

    def twice(self, release, data):
        publish(self, release, data)
        if release.stage == "ctr/0":
            publish(self, replace(release, stage="ctr/1"), data + b"x")

    monkeypatch.setattr(Door, "publish", twice)
    with pytest.raises(BudgetExceededError, match=r"stage ctr/1: .* nothing was sent"):
        run(tmp_path / "run", config())


def test_runs_on_the_same_data_add_up(tmp_path):
    first = run(tmp_path / "a", config())["privacy"]["markets"]["m0"]
    second = run(tmp_path / "b", config(epsilon=2.0))["privacy"]["markets"]["m0"]
    assert first["with_earlier_runs"]["earlier_runs"] == 0
    assert first["with_earlier_runs"]["release"]["epsilon"] == pytest.approx(first["release"]["epsilon"])
    together = second["with_earlier_runs"]
    assert together["earlier_runs"] == 1
    assert together["release"]["epsilon"] > first["release"]["epsilon"] > second["release"]["epsilon"]
    assert findings(tmp_path / "b") == ""
    third = run(tmp_path / "c", tiny(ctr={"baselines": []}))  # without DP
    assert third["privacy"]["markets"]["m0"]["with_earlier_runs"]["market"]["epsilon"] is None
    fourth = run(tmp_path / "d", config())["privacy"]["markets"]["m0"]
    assert fourth["release"]["epsilon"] <= 8.0
    assert fourth["with_earlier_runs"]["release"]["epsilon"] is None


def test_the_account_covers_at_least_what_the_run_released(released):
    """Planned and entered beforehand; what the ledger holds in the end is no more."""
    metrics, directory = released
    line = json.loads((directory.parent / "privacy.account").read_text().splitlines()[0])
    from privacy.accounting.events import event_from_data

    for view in ("market", "release"):
        planned = pld_epsilon(
            [event_from_data(line["events"][view])], metrics["privacy"]["markets"]["m0"][view]["delta"]
        )
        assert planned >= metrics["privacy"]["markets"]["m0"][view]["epsilon"] - 1e-9


def test_protect_federation_bounds_the_federation_and_says_what_it_does_not(tmp_path):
    metrics = run(tmp_path / "run", tiny(privacy={"epsilon": 4.0}, embedding=PRIVATE, ctr={"baselines": ["local-ids"]}))
    views = metrics["privacy"]["markets"]["m0"]
    assert 3.8 < views["market"]["epsilon"] <= 4.0
    assert views["collusion"]["epsilon"] == views["market"]["epsilon"]
    assert views["consumer"]["epsilon"] is None
    assert views["release"]["epsilon"] is None
    assert findings(tmp_path / "run") == ""
    assert release_view(tmp_path / "run").observations == ()
    entries, _ = read_ledger(tmp_path / "run" / "ledger" / "m0.jsonl")
    (refinement,) = [entry for entry in entries if entry.stage == "refinement"]
    assert refinement.audience == ("consumer", "release")
    assert "stays in the market" in refinement.mechanism


def test_distributed_noise_states_market_and_collusion_apart(tmp_path):
    settings = config(distributed_noise=True, epsilon=4.0)
    settings = settings.model_copy(update={"aggregation": settings.aggregation.model_copy(update={"clip": 16.0})})
    views = run(tmp_path / "run", settings)["privacy"]["markets"]["m0"]
    assert findings(tmp_path / "run") == ""
    assert views["market"]["epsilon"] < views["collusion"]["epsilon"]
    entries, _ = read_ledger(tmp_path / "run" / "ledger" / "m0.jsonl")
    steps = [entry for entry in entries if entry.stage == "quantizer/0"]
    whole, part = steps[0].event_for("market"), steps[0].event_for("collusion")
    ratio = whole.event.event.noise_multiplier / part.event.event.noise_multiplier
    assert ratio == pytest.approx(2**0.5)  # three markets, one of them tolerated
    assert "distributed over 3 markets" in steps[0].mechanism


def test_the_released_model_can_be_attacked_through_shadow_pipelines(released, tmp_path):
    run = copy_of(released, tmp_path)
    found = attack_run(run, attacks=["membership"], market="m0", n_shadows=4, units=["user"])
    assert {result["target"] for result in found["membership"]} == {"fedmm"}
    bounded = [result for result in found["membership"] if result["view"] in ("consumer", "release")]
    for result in bounded:
        assert 0.3 < result["auc"]["value"] < 0.7
        stated = json.loads((run / "metrics.json").read_text())["privacy"]["markets"]["m0"][result["view"]]
        assert result["bound"]["epsilon"] == pytest.approx(stated["epsilon"])
    assert all(result["bound"] is None for result in found["membership"] if result["view"] == "profile")
    assert not beyond_bounds(found)


def test_a_result_beyond_its_bound_is_a_finding():
    result = {"market": "m0", "target": "fedmm", "view": "release", "attack": "LiRA", "unit": "user"}
    bound = {"epsilon": 1.0, "delta": 1e-4, "within": {"at_1_percent_fpr": False}}
    assert beyond_bounds({"membership": [result | {"bound": bound}]}) == [
        "m0, fedmm, release, LiRA, user: beyond epsilon 1"
    ]


def test_the_published_white_box_rebuilds_less_the_less_epsilon_admits(released, tmp_path):
    """What an adversary reads from a private release is scored against the same truth as in any run."""
    run = copy_of(released, tmp_path)
    found = attack_run(run, attacks=["reconstruction", "histories", "usage", "inversion"], market="m0")
    assert all(result["published"] for result in found["reconstruction"] + found["histories"])
    views = {result["view"] for result in found["reconstruction"]}
    assert views == {"release and profile", "release", "server", "market", "collusion"}
