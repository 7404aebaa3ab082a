"""What a market's models tell of the market as a whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attacks.properties.worlds import infer_property
from experiments.assessment.attacked import Attacked


def infer_properties(attacked: Attacked) -> list[dict[str, Any]]:
    """Whether the market has many users of a kind."""
    found = infer_property(attacked.retraining, attacked.n_shadows, attacked.config.seed[0], attacked.rng("properties"))
    return [{"market": attacked.market, **asdict(one)} for one in found]
