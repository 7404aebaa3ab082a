"""A market that does not treat canary users as others: it leaves their rows out, or noise out where they are not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attacks.auditing import LOST
from attacks.auditing.canary_users import CanaryReading, Published, _Shown, light_p_value
from attacks.auditing.faults import noise_scaled
from attacks.auditing.joint import joint_test
from attacks.one_run import p_value
from experiments.assessment import canary_users as assessment
from experiments.runs.canary_files import SECRET_FILE, read_canary_file, write_canary_files
from experiments.runs.configuration import resolve
from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.tradeoff import view_curve
from privacy.mechanisms.randomness import NoiseSource
from tests.command_line import fedmm
from tests.conftest import tiny
from tests.released import PRIVATE

COUNT, SIGMA, DRAWS = 400, 2.0, 20
LEVEL = 0.0125  # of one reading of four


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Canary users of a market, its rows, and what its counts show of a way to release them."""
    folder = tmp_path_factory.mktemp("known") / "files"
    settings = tiny(
        data={"synthetic": {"markets": 3, "users": 200, "items": 30, "mean_interactions": 8}},
        privacy={"epsilon": 8.0, "protect": "release"},
        embedding=PRIVATE,
        ctr={"baselines": []},
    )
    write_canary_files(settings, "m1", COUNT, folder)
    config = resolve(str(folder / "with-canaries.yaml"), [])
    users, prepared = read_canary_file(folder / SECRET_FILE), prepare_markets(config.data)["m1"]
    sizes = {name: MarketSize(200, 30) for name in ("m0", "m2")}
    sizes["m1"] = MarketSize(prepared.market.n_users, prepared.market.n_items)
    noise = {"counts": SIGMA, "embedding": 3.0, "quantizer": 6.0, "ctr": 2.0}
    plan = SpendingPlan.of(config, "m1", sizes, noise)
    return SimpleNamespace(folder=folder, config=config, users=users, prepared=prepared, plan=plan)


def rows_of_canaries(audited):
    market = audited.prepared.market
    names = set(audited.users.users)
    return np.array([market.user_ids[user] in names for user in market.user])


def released(audited, seed, rows=None):
    market, config = audited.prepared.market, audited.config
    rows = audited.prepared.split.train if rows is None else rows
    choices, noise = config.privacy.contribution, NoiseSource.from_seed(seed)
    return release_counts(market, rows, choices, SIGMA, noise, times=config.times_counted)


def counts_shown(audited, seed, rows=None, change=lambda counts, exact: counts):
    """What canary users show in counts of some of the market's training rows."""
    market, plan = audited.prepared.market, audited.plan
    rows = audited.prepared.split.train if rows is None else rows
    counts = change(released(audited, seed, rows), np.bincount(market.item[rows], minlength=market.n_items))
    scorer = SimpleNamespace(embedding=SimpleNamespace(counts=counts))
    return _Shown(audited.users, Published(plan, (), scorer, audited.prepared.catalogue))._counts


def refuted(audited, played):
    curve = view_curve([audited.plan.counts().entry("m1", delta=audited.plan.delta, seeded=False)], "release")
    coins = p_value(played.score, audited.users.member, curve)
    return 2.0 * min(coins, joint_test(played).p_value) <= LEVEL


def test_who_leaves_canary_users_out_is_not_just_not_refuted(audited):
    """Their rows never arrive: nothing is refuted, and nothing was tested. Where they weigh enough, it shows."""
    train = audited.prepared.split.train
    without = train[~rows_of_canaries(audited)[train]]
    lost = [counts_shown(audited, seed, without) for seed in range(DRAWS)]
    there = [counts_shown(audited, seed) for seed in range(DRAWS)]
    assert sum(refuted(audited, played) for played in lost) < DRAWS / 2  # the attack: tests of the claim are silent
    assert sum(light_p_value(played) <= LOST * LEVEL for played in lost) >= DRAWS - 2
    light = np.array([light_p_value(played) for played in there])
    assert light.min() > LOST * LEVEL
    assert (light < 0.1).sum() <= stats.binom.ppf(1 - 1e-6, DRAWS, 0.1)


def test_noise_where_one_user_is_at_most_is_not_seen_by_canary_users(audited):
    """What stays possible: their own items are nobody else's, so counts of what two users met may be exact.

    The market need not know them. The positive control: without noise anywhere it is refuted.
    """

    with noise_scaled(0.0):
        exact = released(audited, 0)

    def at_rare_items(counts, met):
        moments = None if counts.moments is None else np.where(met <= 1, counts.moments, exact.moments)
        return replace(counts, values=np.where(met <= 1, counts.values, exact.values), moments=moments)

    shown = [counts_shown(audited, seed, change=at_rare_items) for seed in range(DRAWS)]
    assert sum(refuted(audited, played) for played in shown) <= 3  # as of honest runs
    with noise_scaled(0.0):
        assert refuted(audited, counts_shown(audited, 0))


def test_the_looks_of_their_rows_tell_who_they_are(audited):
    """What stays possible: all rows of a canary user are of one moment, and most are of items that nobody else met."""
    market, hidden = audited.prepared.market, set(audited.users.users)
    rows = pd.DataFrame({"user": market.user, "item": market.item, "time": market.time})
    rows["alone"] = rows.groupby("item")["user"].transform("nunique") == 1
    told = rows.groupby("user").agg(alone=("alone", "sum"), moments=("time", "nunique"))
    found = told.index[(told["alone"] >= 4) & (told["moments"] == 1)]
    assert set(market.user_ids[found]) == hidden & set(market.user_ids)


def test_a_reading_that_shows_nothing_ends_red(tmp_path, capsys, monkeypatch):
    there = CanaryReading("counts", 5.0, 1e-3, COUNT, 200, 0.5, 0.0, 0.0, p_value=1.0, light=0.5, level=LEVEL, seen="")
    for light, status, said in ((0.5, 0, "not refuted"), (LOST * LEVEL / 2, 1, "shows nothing")):
        found = replace(there, light=light)
        monkeypatch.setattr(assessment, "audit_canary_users", lambda *_, found=found: ("m1", [found]))
        (tmp_path / "run").mkdir(exist_ok=True)
        ended, out, _ = fedmm(capsys, "audit", tmp_path / "run", "--users", tmp_path)
        assert (ended, said in " ".join(out.split()), found.refuted) == (status, True, False)
