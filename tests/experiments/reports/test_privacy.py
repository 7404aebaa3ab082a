from experiments.reports.privacy import CIPHERTEXTS_ONLY, NO_BOUND, NOT_PROTECTED, OWN_DATA, view_lines
from fedmm_secure.guarantee.stages import ALL_VIEWS, DECRYPTED_VIEWS
from tests.conftest import tiny


def statement(epsilon, *, together=None, earlier=0, **views):
    found = {view: {"epsilon": views.get(view, epsilon)} for view in ALL_VIEWS}
    found |= {"server": {"epsilon": 0.0}, "profile": {"epsilon": None}}
    over = {view: {"epsilon": together if earlier else epsilon} for view in DECRYPTED_VIEWS}
    return found | {"with_earlier_runs": {"earlier_runs": earlier, **over}}


def config(protect):
    return tiny(privacy={"epsilon": 8.0, "protect": protect}, embedding={"private": {"dim": 4}})


def test_each_view_says_the_worst_market_and_what_earlier_runs_add():
    statements = {"a": statement(3.0, together=5.0, earlier=2), "b": statement(4.0)}
    lines = {line.view: line for line in view_lines(config("release"), {"markets": statements})}
    assert (lines["market"].epsilon, lines["market"].together, lines["market"].earlier) == (4.0, 5.0, 2)
    assert (lines["server"].epsilon, lines["server"].note, lines["server"].earlier) == (0.0, CIPHERTEXTS_ONLY, 0)
    assert (lines["profile"].note, lines["profile"].broken) == (OWN_DATA, False)
    assert not any(line.broken for line in lines.values())


def test_an_unbounded_view_is_told_from_one_that_is_claimed():
    inside = {"a": statement(3.0, consumer=None, release=None)}
    lines = {line.view: line for line in view_lines(config("federation"), {"markets": inside})}
    assert (lines["release"].note, lines["release"].broken) == (NOT_PROTECTED, False)
    lines = {line.view: line for line in view_lines(config("release"), {"markets": inside})}
    assert (lines["release"].note, lines["release"].broken) == (NO_BOUND, True)
