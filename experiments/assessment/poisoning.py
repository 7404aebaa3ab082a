"""A market that poisons the federation of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attacks.poisoning.evaluate import played_alone, poison, poison_under_masks
from experiments.assessment.attacked import Attacked


def poison_others(attacked: Attacked) -> list[dict[str, Any]]:
    """Every strategy of the market against every defence that there is; it sees what a market sees."""
    config, markets, market = attacked.config, attacked.markets, attacked.market
    if not played_alone(config):
        damages = poison(config, markets, market)
    else:
        damages = poison_under_masks(attacked.retraining.fresh_noise, markets, market, attacked.retraining.noise)
    return [{"market": attacked.market, "view": "market", **asdict(damage)} for damage in damages]
