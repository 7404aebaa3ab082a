"""What a configuration would spend, and on how much signal, before anything is trained.

Only public values enter: the number of users and items of each market, and the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from experiments.presentation.steps import track
from fedmm_secure.config import Config
from fedmm_secure.data.market import Market
from fedmm_secure.federation.across_markets import across_markets, states_persons
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.plannable import plannable_epsilon
from fedmm_secure.guarantee.stages import COUNTS, CTR, DECRYPTED_VIEWS, EMBEDDING, QUANTIZER
from fedmm_secure.quantization.build import initial_model
from privacy.accounting.accountants import Accountant
from privacy.accounting.guarantees import composed_epsilon, planning_accountant, view_guarantee
from privacy.accounting.ledger import Entry, stage_group

TYPICAL_ROWS = 8.0  # rows of a user, for the expected signal of counts; an assumption, not read from the data
HOPELESS = 1.0
PlannedBudget = dict[str, Any]


def run_budget(config: Config, markets: Sequence[Market]) -> dict[str, PlannedBudget]:
    """Of each market; where ids are the same people's, also ``across_markets``: of a person with rows in all."""
    found = {market.name: market_budget(config, market, markets) for market in track("markets planned", markets)}
    if not states_persons(config):
        return found
    sizes = _sizes(config, markets)
    persons = asdict(across_markets({market.name: SpendingPlan.of(config, market.name, sizes) for market in markets}))
    return {name: plan | {"across_markets": persons} for name, plan in found.items()}


def _sizes(config: Config, markets: Sequence[Market]) -> dict[str, MarketSize]:
    """Public ones; how many items are yet to be discovered is private."""
    discovered = config.catalogue == "discovered"
    return {market.name: MarketSize(market.n_users, 0 if discovered else market.n_items) for market in markets}


def market_budget(config: Config, market: Market, markets: Sequence[Market]) -> PlannedBudget:
    """ε by stage and view, noise multipliers and signal-to-noise ratios of one market.

    Signal-to-noise is what the stage could reach at best. Counts: an item of average popularity, over the noise.
    Embedding: users spread evenly over the factors, over the noise's spectral norm. DP-SGD: a step on which all
    gradients agree, over the noise's norm. None where it depends on rows, or on items that are yet to be discovered:
    how many those are is private, so nothing here may follow from it. Those of sums over a shared catalogue
    depend on the users of all markets.

    Args:
        config: of the run.
        market: one of the ``markets``.
        markets: all of them.
    """
    items = None if config.catalogue == "discovered" else market.n_items
    plan = SpendingPlan.of(config, market.name, _sizes(config, markets))
    noise, stages = plan.noise, plan.stages
    entries, accountant = planned_entries(plan), planning_accountant(config.privacy.epsilon or 1.0)
    ratios = _signal_to_noise(config, market.n_users, items, noise)
    return {
        "users": market.n_users,
        "items": items,
        "delta": plan.delta,
        "plannable": plannable_epsilon(plan),
        "stages": {
            name: {
                "epsilon": _epsilon(
                    [entry for entry in entries if stage_group(entry.stage) == name], plan.delta, accountant
                ),
                "noise_multiplier": noise[name],
                "signal_to_noise": ratios.get(name),
            }
            for name in stages
        },
        "views": {view: view_guarantee(entries, view, accountant=accountant).epsilon for view in DECRYPTED_VIEWS},
        "too_small_for": sorted(name for name, ratio in ratios.items() if ratio < HOPELESS),
    }


def planned_entries(plan: SpendingPlan) -> list[Entry]:
    """What a run's ledger will hold; of a catalogue that is yet to be discovered, with the most items it may have."""
    largest = plan.at_most()
    seeded = plan.config.privacy.noise_seed is not None
    return [release.entry(plan.market, delta=plan.delta, seeded=seeded) for release in largest.releases()]


def _epsilon(entries: Sequence[Entry], delta: float, accountant: Accountant) -> float | None:
    epsilon = composed_epsilon([entry.event for entry in entries], entries, delta, accountant)
    return None if math.isinf(epsilon) else epsilon


def _signal_to_noise(config: Config, users: int, items: int | None, noise: Mapping[str, float]) -> dict[str, float]:
    privacy, found = config.privacy, {}
    if COUNTS in noise and items is not None:
        found[COUNTS] = users * math.sqrt(TYPICAL_ROWS) / items / noise[COUNTS]
    if EMBEDDING in noise and items is not None:
        private = config.embedding.private
        chosen = min(private.max_items, items)
        found[EMBEDDING] = users / private.dim / (noise[EMBEDDING] * math.sqrt(2.0 * chosen))
    quantizer = sum(parameter.numel() for parameter in initial_model(config, 0).parameters())
    found[QUANTIZER] = privacy.quantizer.sampling_rate * users / (noise[QUANTIZER] * math.sqrt(quantizer))
    if CTR in noise:
        found[CTR] = privacy.ctr.sampling_rate * users / (noise[CTR] * math.sqrt(_ctr_parameters(config)))
    return found


def _ctr_parameters(config: Config) -> int:
    """About as many as the network has: code tables, and the first layers of the perceptron."""
    codes = 2 * (config.quantizer.global_codes + config.quantizer.local_codes) * (config.ctr.dim + 1)
    widths = [18 * config.ctr.dim, *config.ctr.hidden]
    return codes + sum(before * after for before, after in pairwise(widths))
