"""Files of strangers and of one's own that cost gigabytes, never end, or are read as something else in silence.

Each test says what has to hold. Those that are marked do not hold yet: they are strict, so that a mend is noticed.
"""

from types import SimpleNamespace

import pytest

from experiments.deploy.key_plans import plan_for
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.guarantee.multipliers import MarketSize
from tests.command_line import call
from tests.conftest import tiny

broken = pytest.mark.xfail(strict=True, raises=(AssertionError, RecursionError, pytest.fail.Exception))


# -- keys --------------------------------------------------------------------------------------------------------------


@broken
def test_a_market_that_takes_another_s_place_changes_the_plan():
    """As many markets as before, other sizes: the new key was made for the noise of those that had left."""
    config = tiny(privacy={"epsilon": 8, "distributed_noise": True, "quantizer": {"steps_per_round": 1}})
    before = {"aa": (80, 60), "bb": (80, 60), "cc": (80, 60)}
    after = {"aa": (80, 60), "bb": (80, 60), "dd": (20_000, 9000)}
    plan, right = (
        AggregationPlan.of(config, {name: MarketSize(*size) for name, size in sizes.items()})
        for sizes in (before, after)
    )
    assert plan.sum_bound != right.sum_bound
    bundle = SimpleNamespace(aggregation=plan.public())
    with pytest.raises(ConfigError):
        plan_for(bundle, sorted(after), after, None)


@broken
def test_two_cards_of_one_name_found_no_federation(tmp_path):
    for folder, name in (("aa", "aa"), ("bb", "bb"), ("other", "bb"), ("cc", "cc"), ("server", "server")):
        assert call("keys", "join", name, "--keys", str(tmp_path / folder)) == 0
    cards = [
        word for folder in ("bb", "other", "cc", "server") for word in ("--card", str(tmp_path / folder / "card.json"))
    ]
    found = call("keys", "init", "synthetic", "--market", "aa", "--keys", str(tmp_path / "aa"), *cards)
    assert found == 2
