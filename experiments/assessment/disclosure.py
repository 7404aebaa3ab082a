"""Singling out, linkability and inference, from what is published about users of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attacks.disclosure.differencing import difference
from attacks.disclosure.inference import infer_items
from attacks.disclosure.linkability import link
from attacks.disclosure.releases import SCORES, released_again
from attacks.disclosure.risk import Risk
from attacks.disclosure.singling_out import single_out
from experiments.assessment.attacked import Attacked

ITEMS = "items"  # what is attacked, where it is no model


def single_out_users(attacked: Attacked) -> list[dict[str, Any]]:
    """Predicates that fit exactly one user."""
    return [
        found
        for target, releases in attacked.releases.items()
        for found in _results(attacked, target, single_out(releases), "consumer")
    ]


def link_records(attacked: Attacked) -> list[dict[str, Any]]:
    """Two records of one user, of two halves of a history and of two releases."""
    seed, rng = attacked.config.seed[0], attacked.rng("linkability")
    first = next(iter(attacked.releases.values()))[0]  # halves of the users are the same for every target
    again = released_again(attacked.retraining, first, seed + 1)
    return [
        found
        for target, releases in attacked.releases.items()
        for found in _results(attacked, target, link(releases, again[target], rng), "profile")
    ]


def infer_other_items(attacked: Attacked) -> list[dict[str, Any]]:
    """Items of a user, from the others and what is published; of a user who left, from what was published before."""
    rng = attacked.rng("inference")
    left = asdict(difference(attacked.retraining, attacked.rng("differencing")))
    return [
        {"market": attacked.market, "target": ITEMS, "view": "release", **left},
        *(
            found
            for target, releases in attacked.releases.items()
            for found in _results(attacked, target, infer_items(releases, rng), "consumer")
        ),
    ]


def _results(attacked: Attacked, target: str, risks: Sequence[Risk], scores: str) -> list[dict[str, Any]]:
    """As plain data; ``scores`` is the view that shows scores."""
    views = {risk.source: scores if risk.source == SCORES else "release and profile" for risk in risks}
    return [{"market": attacked.market, "target": target, "view": views[risk.source], **asdict(risk)} for risk in risks]
