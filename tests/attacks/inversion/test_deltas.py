import numpy as np
import pytest
from scipy.stats import binomtest

from attacks.inversion.deltas import cosine, recover_deltas
from attacks.views import collusion_view, market_view, owner_values, server_view


def recovered(runs, name, view):
    return recover_deltas(view(runs[name]), owner_values(runs[name]))


def test_the_plaintext_server_recovers_every_update_exactly(runs):
    found = recovered(runs, "plaintext", server_view)
    assert found.messages == 36
    assert found.exact_share.value == found.identified.value == 1.0
    assert found.cosine.value == pytest.approx(1.0)


def at_chance(found):
    assert found.exact_share.value == 0.0
    assert abs(found.cosine.value) < 0.1
    identified = round(found.identified.value * found.messages)
    assert binomtest(identified, found.messages, found.chance).pvalue > 1e-6  # of all, opened, 1e-11


def test_the_same_attempt_on_ciphertexts_is_at_chance(runs):
    found = recovered(runs, "ckks", server_view)
    at_chance(found)
    assert found.chance == pytest.approx(1 / 3)


def test_the_server_with_one_market_opens_every_update_under_one_shared_key(runs):
    found = recovered(runs, "ckks", lambda run: collusion_view(run, ["m0"]))
    assert found.messages == 24  # of the two other markets
    assert found.exact_share.value == found.identified.value == 1.0


def test_masks_keep_single_updates_from_the_server_with_one_market(runs):
    at_chance(recovered(runs, "masked-ckks", lambda run: collusion_view(run, ["m0"])))


def test_with_all_other_markets_any_protection_is_differenced_away(runs):
    """A sum less all other summands: no secure aggregation can help, differential privacy can."""
    run = runs["masked-ckks"]
    view = collusion_view(run, ["m0", "m1"])
    own = {(o.stage, o.round, o.sender): np.frombuffer(o.data, "<i8") for o in view.select("own-update")}
    truth = {(o.stage, o.round, o.sender): np.frombuffer(o.data, "<i8") for o in owner_values(run).observations}
    for record in view.select("sum"):
        at = record.stage, record.round
        rest = np.frombuffer(record.data, "<i8") - own[*at, "m0"] - own[*at, "m1"]
        np.testing.assert_array_equal(rest, truth[*at, "m2"])


def test_one_of_two_markets_takes_its_own_update_from_the_sum(runs):
    found = recovered(runs, "two", lambda run: market_view(run, "m0"))
    assert found.messages == 12
    assert found.exact_share.value == 1.0


def test_one_of_three_markets_finds_the_mean_of_the_others_alone(runs):
    found = recovered(runs, "ckks", lambda run: market_view(run, "m0"))
    assert found.exact_share.value == 0.0
    assert found.identified.value == pytest.approx(0.5, abs=0.3)  # the same guess for both
    assert found.cosine.value > 0.5  # what they have in common is no secret


def test_a_view_without_updates_is_refused(runs):
    with pytest.raises(ValueError, match="holds no updates"):
        recover_deltas(owner_values(runs["ckks"]), owner_values(runs["ckks"]))


def test_cosine_of_nothing_is_zero():
    assert cosine(np.zeros(3), np.ones(3)) == 0.0
