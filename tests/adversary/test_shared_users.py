"""One person in several markets of a federation: each ledger states the ε of one of them."""

from dataclasses import replace

import pytest

from experiments.compliance.judgement import document_verdict
from fedmm_secure.data.shared_users import refuse_shared_users, shared_users
from fedmm_secure.errors import DataError
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.pipeline import run_pipeline
from privacy.accounting.guarantees import composed_epsilon, view_guarantee
from tests.adversary.test_compliance import document
from tests.released import release_configuration


def same_people(markets):
    """Every market has the user ids of the first."""
    ids = markets["m0"].whole.market.user_ids
    return {
        name: replace(
            prepared,
            market=replace(prepared.market, user_ids=ids),
            whole=replace(prepared.whole, market=replace(prepared.whole.market, user_ids=ids)),
        )
        for name, prepared in markets.items()
    }


def test_eighty_people_in_three_markets(tiny_markets, tmp_path):
    config, markets = release_configuration(), same_people(tiny_markets)
    entries = {}
    for name in markets:
        plan = SpendingPlan.of(config, name, market_sizes(config, sorted(markets), markets))
        entries[name] = [release.entry(name, delta=plan.delta, seeded=False) for release in plan.releases()]
    stated = max(view_guarantee(found, "release").epsilon for found in entries.values())
    everything = [entry for found in entries.values() for entry in found]
    together = composed_epsilon([entry.event_for("release") for entry in everything], everything, everything[0].delta)
    assert stated <= 8.0 < 15.0 < together  # the attack works: each ledger states 8 of the same person
    with pytest.raises(DataError, match=r"m0 80, m1 80, m2 80.*shared_users: composed.*shared_users: distinct"):
        run_pipeline(config, markets, tmp_path / "run")
    assert not (tmp_path / "run" / "ledger").exists()  # nothing was charged


@pytest.mark.parametrize("said", ["composed", "distinct"])
def test_what_it_means_can_be_said(tiny_markets, said):
    config = release_configuration()
    config = config.model_copy(update={"data": config.data.model_copy(update={"shared_users": said})})
    assert shared_users(same_people(tiny_markets)) == [("m0", 80), ("m1", 80), ("m2", 80)]
    refuse_shared_users(config, same_people(tiny_markets))
    assert shared_users(tiny_markets) == []
    refuse_shared_users(release_configuration(), tiny_markets)


def test_a_report_holds_the_limit_against_all_markets_together():
    assert document_verdict(document()).compliant
    found = document_verdict(document(run={"shared_users": "composed"}, across=17.71))
    assert not found.compliant
    assert "composed over all markets, is 17.71, and exceeds the limit 8" in "".join(found.reasons)
    assert document_verdict(document(run={"shared_users": "composed"}, across=7.9)).compliant
    assert not document_verdict(document(run={"shared_users": "composed"}, across=None)).compliant
    found = document_verdict(document(run={"shared_users": "distinct"}))
    assert found.compliant
    assert any(item.startswith("declared, not shown: user ids") for item in found.open)
