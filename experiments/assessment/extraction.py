"""Copies of a market's models, made from what their users are shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attacks.extraction.surrogate import extract
from experiments.assessment.attacked import Attacked
from experiments.assessment.truth import popularity


def copy_models(attacked: Attacked) -> list[dict[str, Any]]:
    """By target, copies from ever more queries of the model of a release; nothing where accounts cannot be new."""
    found = []
    for target, (release, _) in attacked.releases.items():
        if release.trained.accounts is None:
            continue
        strangers = release.histories[release.outside]
        made = extract(
            release.trained, strangers, release.pool, popularity(attacked.prepared), attacked.rng("extraction")
        )
        found += [{"market": attacked.market, "target": target, "view": "consumer", **asdict(one)} for one in made]
    return found
