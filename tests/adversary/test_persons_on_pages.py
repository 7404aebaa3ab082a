"""A run whose configuration says that user ids are the same people in all markets: what it prints of such a person."""

import json
import re

from experiments.reports.run import write_report
from experiments.runs.budget import market_budget
from fedmm_secure.data.prepare import load_markets
from tests.forgery import Forgery
from tests.released import release_configuration


def composed(config):
    return config.model_copy(update={"data": config.data.model_copy(update={"shared_users": "composed"})})


def test_a_run_of_the_same_people_does_not_print_one_market_s_figure_as_that_of_a_user_with_all_rows(released_copy):
    """Three markets of 7.97 each compose to 17.8 for the people that the configuration says they share."""
    forgery = Forgery(released_copy)
    forgery.configure("data", shared_users="composed")
    forgery.finish(owner=True)
    write_report(released_copy)
    text = re.sub(r"<[^>]+>", " ", (released_copy / "report.html").read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", text)
    assert "for a user with all rows" not in text or "in all markets" in text


def test_a_budget_for_the_same_people_says_what_a_person_in_all_markets_spends():
    config = composed(release_configuration())
    markets = load_markets(config.data)
    found = {market.name: market_budget(config, market, len(markets)) for market in markets}
    assert max(plan["views"]["release"] for plan in found.values()) <= 8.0
    assert any(word in json.dumps(found) for word in ("person", "across_markets", "several"))
