"""Rows as the name of a field that is empty: whoever compares values by ``get`` sees none on either side."""

import pytest

from experiments.runs import differences as module
from experiments.runs.differences import differences
from experiments.verification import examine_run, opening
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan, check_bundle
from privacy.aggregation.bundle import read_bundle
from tests.forgery import Forgery
from tests.manipulations import ROWS

NAME = ROWS[:1000].hex()


def checks(run):
    return {name for name, findings in examine_run(run).checks.items() if findings}


def in_an_opening_line(run):
    run.opening("m0")[NAME] = None


def in_its_noise(run):
    run.opening("m0")["noise"][NAME] = None


def in_a_statement(run):
    run.json("metrics.json", lambda metrics: metrics["privacy"]["markets"]["m0"]["release"].update({NAME: None}))


def as_a_market(run):
    """One of which nothing is said."""
    run.json("metrics.json", lambda metrics: metrics["privacy"]["markets"].update({NAME: None}))


def in_the_size_of_a_catalogue(run):
    """No name, but a number that nothing was compared with."""
    sizes = int.from_bytes(ROWS[-7:], "big") % 10**12
    run.json("metrics.json", lambda metrics: metrics["privacy"]["catalogue"]["m0"].update(size=sizes))


def as_a_view(run):
    """A view that nobody knows may say anything."""
    run.json("metrics.json", lambda metrics: metrics["privacy"]["markets"]["m0"].update({NAME: {"rows": NAME}}))


FOUND = {
    in_an_opening_line: {"opening line"},
    in_its_noise: {"opening line"},
    in_a_statement: {"epsilon"},
    as_a_view: {"epsilon"},
    as_a_market: {"files"},
    in_the_size_of_a_catalogue: {"opening line"},
}


@pytest.mark.parametrize("put", FOUND, ids=lambda one: one.__name__)
def test_the_name_of_a_field(released_copy, put):
    run = Forgery(released_copy)
    put(run)
    run.finish(owner=True)
    assert checks(released_copy) == FOUND[put]


def by_get(expected, found, field="", same=module.eq):
    """As it was."""
    if isinstance(expected, dict) and isinstance(found, dict):
        pairs = [(f"{field}.{key}", expected.get(key), found.get(key)) for key in sorted(expected.keys() | found)]
        return [one for name, *both in pairs for one in by_get(*both, name.strip("."), same)]
    return [] if same(expected, found) else [(field, expected, found)]


@pytest.mark.parametrize("put", [in_an_opening_line, in_a_statement], ids=lambda one: one.__name__)
def test_they_verified(released_copy, put, monkeypatch):
    monkeypatch.setattr(opening, "differences", by_get)
    run = Forgery(released_copy)
    put(run)
    run.finish(owner=True)
    assert checks(released_copy) == set()


def test_a_field_that_only_one_side_has_is_a_difference():
    assert by_get({"a": 1}, {"a": 1, "b": None}) == []
    assert differences({"a": 1}, {"a": 1, "b": None}) == [("b", None, None)]
    assert differences({"a": {"b": None}}, {"a": {}}) == [("a.b", None, None)]


@pytest.mark.parametrize("more", [{NAME: None}, {"length": 32.0}])
def test_a_bundle_says_nothing_but_what_its_configuration_does(released_run, more):
    """The founder signs it before the run, and all messages name its hash."""
    bundle = read_bundle(released_run / "transcript" / "federation.json")
    plan = AggregationPlan.from_public(bundle.aggregation)
    check_bundle(bundle, plan, released_run)
    said = {**bundle.aggregation, **more}
    assert all(plan.public().get(name) == said.get(name) for name in said)  # as it was compared
    object.__setattr__(bundle, "aggregation", said)
    with pytest.raises(ConfigError, match="the keys were made for"):
        check_bundle(bundle, plan, released_run)
