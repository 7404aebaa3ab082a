from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from attacks.membership.budgets import infer_by_queries
from attacks.membership.evaluate import infer
from attacks.membership.observations import strangers
from attacks.membership.queries import Pairs, Queries, fair_coins, halve
from attacks.membership.scores import lira_online
from attacks.membership.shadow import ShadowPlan, train_shadows
from attacks.retraining.pipelines import Retraining
from fedmm_secure.guarantee.multipliers import plan_noise
from fedmm_secure.storage.files import Store
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("few_trees")


def plan_of(config, markets, *targets, unit="interaction", noise=None):
    noise = noise or {name: {} for name in markets}
    return ShadowPlan(Retraining(config, markets, "m0", targets, {}, noise), unit)


def test_shadow_pipelines_answer_for_every_target_and_resume(tiny_markets, tmp_path):
    plan = plan_of(tiny(ctr={"max_epochs": 4}), tiny_markets, "local-ids", "federated-codes", "fedmm")
    told = []
    found = train_shadows(plan, n_shadows=4, store=Store(tmp_path), progress=lambda *step: told.append(step))
    assert (told[0], told[-1]) == ((0, 4), (4, 4))
    n = len(found.queries.rows)
    for observed in found.observed.values():
        assert observed["profile"].shape == found.member.shape == (4, n)
        assert all(np.isfinite(values).all() for values in observed.values())
    assert "consumer" not in found.observed["local-ids"]  # a user id cannot be that of a new account
    assert found.observed["fedmm"]["consumer"].shape == (4, n)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(before) == 4
    next(iter(before)).unlink()
    again = train_shadows(plan, n_shadows=4, store=Store(tmp_path))
    np.testing.assert_array_equal(again.observed["fedmm"]["profile"], found.observed["fedmm"]["profile"])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert sum(after[path] != before[path] for path in after) == 1  # what was kept is not trained again


def test_side_by_side_and_one_by_one_agree(tiny_markets):
    """Same seeds and rows: the same models but for rounding and batch boundaries.

    One epoch: which epoch a model stops at turns on a hair, with the few validation rows that there are here.
    """
    config = tiny(ctr={"max_epochs": 1, "dropout": 0.0, "refit": False}, federation={"rounds": 3})
    plan = plan_of(config, tiny_markets, "local-ids", "local-codes", "federated-codes")
    prepared = tiny_markets["m0"]
    queries = Queries.of(prepared)
    member = fair_coins(4, len(prepared.split.train), np.random.default_rng(0))
    halves = [halve(prepared, "interaction", own) for own in member]
    together = plan.train(halves, queries, 0)
    alone = plan.train(halves, queries, 0, together=False)
    for target in plan.retraining.targets:
        for left, right in zip(together, alone, strict=True):
            assert np.corrcoef(left[target]["profile"], right[target]["profile"])[0, 1] > 0.9


def test_a_shadow_pipeline_never_reads_the_rows_it_lacks(tiny_markets):
    """Every stage is retrained: changing the missing rows changes nothing, whichever stage read them."""
    prepared = tiny_markets["m0"]
    train = prepared.split.train
    missing = train[1::2]
    changed = prepared.market.item.copy()
    changed[missing] = np.random.default_rng(0).permutation(changed[missing])
    other = replace(prepared, market=replace(prepared.market, item=changed))
    queries = Queries.of(prepared)
    own = np.arange(len(train)) % 2 == 0
    for target in ("federated-codes", "local-codes", "fedmm"):
        left, right = (
            plan_of(tiny(), {**tiny_markets, "m0": market}, target).train(
                [halve(market, "interaction", own)], queries, 0
            )[0][target]
            for market in (prepared, other)
        )
        for view, values in left.items():
            np.testing.assert_array_equal(values, right[view], err_msg=f"{target}, {view}")


def test_a_user_who_is_left_out_is_in_no_part(tiny_markets):
    prepared = tiny_markets["m0"]
    member = np.arange(prepared.market.n_users) % 2 == 0
    half = halve(prepared, "user", member)
    for rows in vars(half.split).values():
        assert member[prepared.market.user[rows]].all()
    for candidates in (half.valid, half.test):
        assert member[candidates.user].all()
    assert half.market.n_users == prepared.market.n_users  # the number of users is public


def test_queries_copy_an_account_without_the_row_that_is_asked_about(tiny_markets):
    queries = Queries.of(tiny_markets["m0"])
    each = np.arange(len(queries.rows))
    assert not queries.history[each, queries.item].any()
    rows = np.asarray(queries.full.sum(axis=1)).ravel()[queries.user]
    np.testing.assert_array_equal(np.asarray(queries.history.sum(axis=1)).ravel(), rows - 1)
    assert (queries.near[queries.item] != queries.item[:, None]).all()


def test_a_single_item_account_is_asked_for_the_users_other_items_the_rarest_first(tiny_markets):
    queries = Queries.of(tiny_markets["m0"])
    pairs = queries.pairs
    assert (pairs.accounts.sum(axis=1) == 1).all()
    partner = pairs.accounts.indices[pairs.account]
    assert (partner != queries.item[pairs.row]).all()
    assert queries.full[queries.user[pairs.row], partner].all()  # an item of the same user
    asked = Pairs.of(np.zeros(12, int), np.arange(12), np.ones((12, 12)), np.arange(12), 12)
    assert set(np.bincount(asked.row)) == {8, 9}
    together = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    rare = Pairs.of(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 0]), together, np.arange(4), 4)
    assert rare.items[rare.account[rare.row == 0]].tolist() == [2, 1]
    assert (rare.apart[:3] == 3).all()
    assert set(rare.apart[3].tolist()) == {0, 1, 2}


def test_who_is_not_known_is_shown_a_strangers_account_of_the_same_size():
    """Not an empty one, which anybody can tell from a full one."""
    rng = np.random.default_rng(0)
    size = np.repeat([2, 3, 7], 20)
    full = sparse.csr_array((np.arange(12)[None] < size[:, None]).astype(float))
    known = rng.random(60) < 0.5
    shown = strangers(full, known, rng)
    assert (shown[known] == np.flatnonzero(known)).all()
    assert known[shown].all()
    assert (size[shown] == size).all()
    assert len(set(shown[~known])) > 10  # not always the same


def test_overfitted_models_are_told_apart_by_membership(tiny_markets, tmp_path):
    config = tiny(ctr={"max_epochs": 20, "batch_size": 128, "dropout": 0.0, "refit": False})
    found = train_shadows(plan_of(config, tiny_markets, "local-ids"), n_shadows=12, store=Store(tmp_path))
    scores = lira_online(found.observed["local-ids"]["profile"].astype(float), found.member)
    assert roc_auc_score(found.member.ravel(), scores.ravel()) > 0.55


def test_every_view_of_users_is_attacked(tiny_markets, tmp_path):
    plan = plan_of(tiny(aggregation={"kind": "ckks"}), tiny_markets, "fedmm", unit="user")
    shadows = train_shadows(plan, n_shadows=4, store=Store(tmp_path))
    found = list(infer(shadows))
    views = {(inference.view, inference.attack) for inference in found}
    # under ckks single updates are opened by the server with a market, not by the server alone
    assert {view for view, _ in views} == {"profile", "consumer", "release", "market", "collusion"}
    masked = {(inference.view, inference.attack) for inference in infer(replace(shadows, opened_by=None))}
    assert views - masked == {("collusion", "codebook")}
    assert ("collusion", "codebook, 2 of 3 markets") in masked  # the sum less all others', whoever adds it up
    assert {attack for view, attack in views if view == "market"} == {"codebook", "codebook, without its own"}
    assert {("consumer", "recommendations"), ("market", "codebook"), ("release", "white box")} <= views
    assert {("profile", "reference recommendations"), ("profile", "BaVarIA"), ("consumer", "BaVarIA")} <= views
    budgets = [one.queries for one in infer_by_queries(shadows, ("fedmm",))]
    assert budgets == sorted(budgets)
    assert len(budgets) > 3
    assert {attack for view, attack in views if view == "consumer"} >= {"single-item accounts", "multi-query LiRA"}
    users = len(np.unique(Queries.of(tiny_markets["m0"]).user))
    assert all(inference.scores.shape == (4, users) for inference in found)
    assert all(np.isfinite(inference.scores).all() for inference in found)


@pytest.mark.parametrize("noise_seed", [None, 3])
def test_shadows_of_a_private_run_draw_noise_of_their_own(tiny_markets, noise_seed):
    """A noise seed in the configuration would be shared by target and shadows, and take the noise away."""
    config = tiny(
        privacy={"epsilon": 4.0, "protect": "release", "noise_seed": noise_seed},
        embedding={"private": {"dim": 4}},
        ctr={"baselines": []},
    )
    noise = {
        name: plan_noise(config, prepared.market.n_items, config.privacy.delta_for(prepared.market.n_users))
        for name, prepared in tiny_markets.items()
    }
    plan = plan_of(config, tiny_markets, "fedmm", unit="user", noise=noise)
    prepared = tiny_markets["m0"]
    half = halve(prepared, "user", np.ones(prepared.market.n_users, dtype=bool))
    queries = Queries.of(prepared)
    left, right = (plan.train([half], queries, 0)[0]["fedmm"] for _ in range(2))
    assert not np.allclose(left["consumer"], right["consumer"])
    assert not np.allclose(left["user-release"], right["user-release"])
