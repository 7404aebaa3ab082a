"""The beginning of a run: each ledger's first line commits to what the run is given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config, configuration_hash
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.storage.layout import ENVIRONMENT_FILE
from fedmm_secure.storage.provenance import code_version
from privacy.aggregation.bundle import Bundle


def known_catalogue(config: Config, prepared: PreparedMarket) -> dict[str, Any]:
    """What a first line says of a market's items: nothing of those that are yet to be discovered."""
    return {"kind": config.catalogue} if config.catalogue == "discovered" else prepared.catalogue.stated()


def commitments(
    run: str, plan: SpendingPlan, catalogue: Mapping[str, Any], bundle: Bundle, directory: Path, data: str
) -> dict[str, Any]:
    """What a ledger's first line commits to: all that a run is given, but for a coin (``coins.Coins.stated``)."""
    environment = directory / ENVIRONMENT_FILE
    return {
        "run": run,
        "market": plan.market,
        "configuration": configuration_hash(plan.config).hex(),
        "data": data,
        "synthetic": plan.config.data.synthetic is not None,  # nobody's rows, which no account knows of
        "users": plan.size.users,
        "items": plan.size.items,
        "catalogue": dict(catalogue),
        "delta": plan.delta,
        "noise": dict(plan.noise),
        "sizes": {name: asdict(size) for name, size in plan.sizes.items()},
        "federation": bundle.digest,
        "code": code_version(),
        "environment": hashlib.sha256(environment.read_bytes()).hexdigest() if environment.is_file() else "",
        "seeded": plan.config.privacy.noise_seed is not None,
    }
