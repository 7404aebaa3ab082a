"""Keys that are made for other markets than take part, or for somebody who has another's name."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from experiments.deploy.key_plans import plan_for
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.guarantee.multipliers import MarketSize
from privacy.aggregation.bundle import read_bundle
from tests.command_line import call, fedmm
from tests.conftest import tiny

BEFORE = {"aa": (80, 60), "bb": (80, 60), "cc": (80, 60)}
DISTRIBUTED = tiny(privacy={"epsilon": 8, "distributed_noise": True, "quantizer": {"steps_per_round": 1}})


def bundle_of(config):
    """The bundle of a federation, as far as a new key asks it."""
    plan = AggregationPlan.of(config, {name: MarketSize(*size) for name, size in BEFORE.items()})
    return SimpleNamespace(aggregation=plan.public(), markets=list(BEFORE), sizes=BEFORE)


CHANGES = {
    "another member": {"aa": (80, 60), "bb": (80, 60), "dd": (20_000, 9000)},
    "another size": {**BEFORE, "cc": (20_000, 9000)},
    "one member less": {"aa": (80, 60), "bb": (80, 60)},
}


@pytest.mark.parametrize("after", CHANGES.values(), ids=CHANGES)
def test_other_markets_are_planned_anew(after):
    """As many markets as before, other sizes: the new key was made for the noise of those that had left."""
    bundle = bundle_of(DISTRIBUTED)
    with pytest.raises(ConfigError, match="give --config"):
        plan_for(bundle, sorted(after), after, None)
    if len(after) == len(BEFORE):
        right = AggregationPlan.of(DISTRIBUTED, {name: MarketSize(*size) for name, size in after.items()})
        assert plan_for(bundle, sorted(after), after, DISTRIBUTED) == right
        # the attack: what stood here kept the plan where the number of markets stays
        assert AggregationPlan.from_public(bundle.aggregation).sum_bound != right.sum_bound


def test_the_same_markets_keep_their_plan():
    bundle = bundle_of(DISTRIBUTED)
    assert plan_for(bundle, sorted(BEFORE), BEFORE, None) == AggregationPlan.from_public(bundle.aggregation)


def test_a_plan_that_no_size_enters_needs_no_configuration():
    bundle = bundle_of(tiny())
    plan = AggregationPlan.from_public(bundle.aggregation)
    for after in CHANGES.values():
        assert plan_for(bundle, sorted(after), after, None) == replace(plan, cohort=len(after))


# -- two cards of one name ---------------------------------------------------------------------------------------------


@pytest.fixture
def cards(tmp_path):
    """Cards of parties, by folder; two of them call themselves "bb"."""
    for folder, name in (("aa", "aa"), ("bb", "bb"), ("other", "bb"), ("cc", "cc"), ("server", "server")):
        assert call("keys", "join", name, "--keys", str(tmp_path / folder)) == 0
    return lambda *folders: [word for one in folders for word in ("--card", str(tmp_path / one / "card.json"))]


@pytest.mark.parametrize("order", [("bb", "other"), ("other", "bb"), ("bb", "bb")])
def test_two_cards_of_one_name_found_no_federation(cards, tmp_path, capsys, order):
    """The last one was taken in silence: whoever slipped a card in was the market."""
    init = ("keys", "init", "synthetic", "--market", "aa", "--keys", str(tmp_path / "aa"))
    status, _, err = fedmm(capsys, *init, *cards(*order, "cc", "server"))
    assert status == 2
    assert all(str(tmp_path / folder / "card.json") in err for folder in order)
    assert err.count("\n") == 1
    assert not (tmp_path / "aa" / "federation.json").exists()


def test_each_of_the_two_alone_would_be_the_market(cards, tmp_path):
    """The attack: under either card the federation is founded, so the order decided who it is of."""
    found = set()
    for folder in ("bb", "other"):
        founder = tmp_path / f"founder-{folder}"
        assert call("keys", "join", "aa", "--keys", str(founder)) == 0
        init = ("keys", "init", "synthetic", "--market", "aa", "--keys", str(founder))
        assert call(*init, *cards(folder, "cc", "server")) == 0
        found.add(read_bundle(founder / "federation.json").cards["bb"].fingerprint)
    assert len(found) == 2


def test_a_market_does_not_come_twice(cards, tmp_path, capsys):
    assert (
        call(
            "keys", "init", "synthetic", "--market", "aa", "--keys", str(tmp_path / "aa"), *cards("cc", "server", "bb")
        )
        == 0
    )
    for folder in ("dd", "dd-again"):
        assert call("keys", "join", "dd", "--keys", str(tmp_path / folder)) == 0
    coming = [word for one in ("dd", "dd-again") for word in ("--with", str(tmp_path / one / "card.json"))]
    status, _, err = fedmm(capsys, "keys", "rotate", "--keys", str(tmp_path / "aa"), *coming)
    assert (status, err.count("\n")) == (2, 1)
    assert "dd-again" in err
