"""A market that poisons the federation of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attacks.poisoning.evaluate import poison
from experiments.assessment.attacked import Attacked


def poison_others(attacked: Attacked) -> list[dict[str, Any]]:
    """Every strategy of the market against every defence; it sees what a market sees."""
    damages = poison(attacked.config, attacked.markets, attacked.market)
    return [{"market": attacked.market, "view": "market", **asdict(damage)} for damage in damages]
