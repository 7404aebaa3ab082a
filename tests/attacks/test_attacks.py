from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from attacks.inversion.deltas import recover_deltas
from attacks.membership.queries import balanced_membership
from attacks.membership.scores import lira_empirical_bayes, lira_online, loss_threshold
from attacks.membership.shadow import ShadowPlan, train_shadows
from attacks.metrics import membership_metrics, proportion, true_positives_at
from attacks.views import collusion_view, market_view, owner_values, server_view
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import Store
from tests.conftest import tiny


@pytest.fixture(scope="module")
def runs(tiny_markets, tmp_path_factory):
    found = {}
    for kind in ("plaintext", "ckks"):
        found[kind] = tmp_path_factory.mktemp(kind) / "run"
        # several repetitions: more messages, narrower intervals
        config = tiny(aggregation={"kind": kind}, seed=[0, 1], ctr={"baselines": []}, federation={"rounds": 6})
        run_pipeline(config, tiny_markets, found[kind])
    return found


def test_the_plaintext_server_recovers_every_update_exactly(runs):
    found = recover_deltas(server_view(runs["plaintext"]), owner_values(runs["plaintext"]))
    assert found.messages == 36
    assert found.exact_share.value == found.identified.value == 1.0
    assert found.cosine.value == pytest.approx(1.0)


def test_the_same_attempt_on_ciphertexts_is_at_chance(runs):
    found = recover_deltas(server_view(runs["ckks"]), owner_values(runs["ckks"]))
    assert found.exact_share.value == 0.0
    assert found.cosine.low <= 0.0 <= found.cosine.high or abs(found.cosine.value) < 0.1
    assert found.identified.low <= found.chance <= found.identified.high
    assert found.chance == pytest.approx(1 / 3)


def test_views_hold_what_they_should_and_nothing_more(runs):
    kinds = {(o.kind, o.sender) for o in market_view(runs["ckks"], "m1").observations}
    hellos = {("hello", name) for name in ("m0", "m1", "m2")}
    assert kinds == {("aggregate", "server"), ("sum", "server"), ("own-update", "m1"), *hellos}
    assert {o.kind for o in server_view(runs["ckks"]).observations} == {"hello", "update", "aggregate"}
    colluding = collusion_view(runs["ckks"], ["m0", "m1"])
    assert {o.sender for o in colluding.select("own-update")} == {"m0", "m1"}
    assert len(colluding.select("update")) == 36


def test_a_directory_without_transcript_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is this a run directory"):
        server_view(tmp_path)


def gaussian_models(n_models, n_queries, effect, seed=0):
    """Confidences that membership raises by ``effect`` standard deviations, queries of unequal difficulty."""
    rng = np.random.default_rng(seed)
    member = balanced_membership(n_models, n_queries, rng)
    difficulty = rng.normal(0, 3, n_queries)
    return difficulty + effect * member + rng.normal(size=member.shape), member


def test_membership_is_balanced():
    member = balanced_membership(16, 500, np.random.default_rng(0))
    assert (member.sum(0) == 8).all()


def test_lira_reaches_the_optimum_that_difficulty_hides_from_the_loss_threshold():
    confidence, member = gaussian_models(64, 2000, effect=1.5)
    lira = membership_metrics(lira_online(confidence, member), member)
    threshold = membership_metrics(loss_threshold(confidence, member), member)
    optimum = 0.8556  # Phi(1.5 / sqrt 2)
    assert lira.auc.value == pytest.approx(optimum, abs=0.02)
    assert threshold.auc.value < 0.68


def test_attacks_find_nothing_where_there_is_nothing():
    confidence, member = gaussian_models(32, 1000, effect=0.0)
    found = membership_metrics(lira_online(confidence, member), member)
    assert found.auc.value == pytest.approx(0.5, abs=0.02)
    assert found.tpr_at_1_percent_fpr.value == pytest.approx(0.01, abs=0.01)


def test_lira_does_not_read_the_targets_own_membership():
    confidence, member = gaussian_models(16, 200, effect=1.0)
    flipped = member.copy()
    flipped[3] = ~flipped[3]
    np.testing.assert_allclose(lira_online(confidence, member)[3], lira_online(confidence, flipped)[3])


def test_true_positives_at_a_false_positive_rate():
    member = np.array([True] * 4 + [False] * 100)
    score = np.concatenate([[200.0, 99.5, 98.5, 0.0], np.arange(100.0)])
    assert true_positives_at(score, member, 0.01) == 3  # one non-member may score above
    assert true_positives_at(score, member, 0.0) == 2


def test_clopper_pearson_matches_a_published_value():
    found = proportion(0, 10)
    assert found.low == 0.0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 10))


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_empirical_bayes_beats_plain_lira_with_few_shadows_and_finds_nothing_in_nothing(effect):
    confidence, member = gaussian_models(8, 4000, effect=effect)
    plain = membership_metrics(lira_online(confidence, member), member).auc.value
    shrunken = membership_metrics(lira_empirical_bayes(confidence, member), member).auc.value
    if effect:
        assert shrunken > plain + 0.02
        assert shrunken == pytest.approx(0.69, abs=0.02)  # Phi(0.7 / sqrt 2): the optimum
    else:
        assert shrunken == pytest.approx(0.5, abs=0.02)


def plan_of(config, markets, *targets):
    return ShadowPlan(config, markets, "m0", targets, {}, {name: {} for name in markets})


def test_shadow_pipelines_answer_for_every_target_and_resume(tiny_markets, tmp_path):
    plan = plan_of(tiny(ctr={"max_epochs": 4}), tiny_markets, "local-ids", "federated-codes")
    found = train_shadows(plan, n_shadows=6, store=Store(tmp_path))
    for confidence in found.confidence.values():
        assert confidence.shape == found.member.shape == (6, len(found.rows))
        assert np.isfinite(confidence).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(before) == 6
    again = train_shadows(plan, n_shadows=6, store=Store(tmp_path))
    np.testing.assert_array_equal(again.confidence["local-ids"], found.confidence["local-ids"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before


def test_a_shadow_pipeline_never_reads_the_rows_it_lacks(tiny_markets):
    """Every stage is retrained: changing the missing rows changes nothing, whichever stage read them."""
    prepared = tiny_markets["m0"]
    train = prepared.split.train
    half, missing = train[::2], train[1::2]
    changed = prepared.market.item.copy()
    changed[missing] = np.random.default_rng(0).permutation(changed[missing])
    other = replace(prepared, market=replace(prepared.market, item=changed))
    queries = half[prepared.pool.contains(prepared.market.item[half])]
    for target in ("federated-codes", "local-codes", "fedmm"):
        left, right = (
            plan_of(tiny(), {**tiny_markets, "m0": market}, target).train(half, queries, 0)
            for market in (prepared, other)
        )
        np.testing.assert_array_equal(left[target], right[target])


def test_overfitted_models_are_told_apart_by_membership(tiny_markets, tmp_path):
    config = tiny(ctr={"max_epochs": 20, "batch_size": 128, "dropout": 0.0, "refit": False})
    found = train_shadows(plan_of(config, tiny_markets, "local-ids"), n_shadows=12, store=Store(tmp_path))
    scores = lira_online(found.confidence["local-ids"], found.member)
    assert roc_auc_score(found.member.ravel(), scores.ravel()) > 0.55
