"""Run the attacks on a finished run and keep what they find in ``attacks/`` of its directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attacks.inversion.deltas import recover_deltas
from attacks.membership.scores import lira_empirical_bayes, lira_online, loss_threshold
from attacks.membership.shadow import Progress, ShadowPlan, recipe_by_name, train_shadows
from attacks.metrics import membership_metrics
from attacks.views import owner_values, server_view
from experiments.run_directory import read_config, read_metrics
from fedmm_secure.config import Config
from fedmm_secure.ctr.recipes import CONFIGURED
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage import Store, write_json

ATTACKS = ("inversion", "membership")
DEFAULT_SHADOWS = 16
SCORES = {
    "loss threshold": loss_threshold,
    "LiRA": lira_online,
    "LiRA, empirical Bayes": lira_empirical_bayes,
}


def attack_run(
    run: Path,
    *,
    attacks: Sequence[str] = ATTACKS,
    market: str | None = None,
    targets: Sequence[str] = (CONFIGURED,),
    n_shadows: int = DEFAULT_SHADOWS,
    progress: Progress = lambda done, total: None,
) -> dict[str, list[dict[str, Any]]]:
    """Attack a run; results are written to ``attacks/attacks.json``, beside those of attacks made before.

    Raises:
        ConfigError: unknown attack, market or target.
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_config(run), read_metrics(run)
    sizes = {name: values["n_users"] for name, values in metrics["markets"].items()}
    market = market or min(sizes, key=lambda name: sizes[name])
    if market not in sizes:
        raise ConfigError(f"--market {market}: the run's markets are {', '.join(sizes)}")
    for attack in attacks:
        if attack not in ATTACKS:
            raise ConfigError(f"--attack {attack}: choose from {', '.join(ATTACKS)}")
    for target in targets:
        try:
            recipe_by_name(config, target)
        except ValueError as error:
            raise ConfigError(f"--target {error}") from error
    if n_shadows % 2:
        raise ConfigError("--shadows must be even: half of them hold each row")
    path = run / "attacks" / "attacks.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.is_file() else {}
    if "inversion" in attacks:
        found["inversion"] = [_invert(run, config)]
    if "membership" in attacks:
        found["membership"] = _infer_membership(run, config, market, targets, n_shadows, progress)
    write_json(path, found)
    return found


def _invert(run: Path, config: Config) -> dict[str, Any]:
    view = server_view(run)
    recovery = recover_deltas(view, owner_values(run))
    return {"view": view.name, "aggregation": config.aggregation.kind, **asdict(recovery)}


def _infer_membership(
    run: Path, config: Config, market: str, targets: Sequence[str], n_shadows: int, progress: Progress
) -> list[dict[str, Any]]:
    markets = prepare_markets(config.data)
    plan = ShadowPlan(
        config,
        markets,
        market,
        tuple(targets),
        {target: _tuned_choice(run, market, target) for target in targets},
        {name: _noise_multipliers(run, name) for name in markets},
    )
    shadows = train_shadows(plan, n_shadows=n_shadows, store=Store(run / "attacks"), progress=progress)
    return [
        {
            "market": market,
            "target": target,
            "attack": attack,
            "unit": "interaction",
            "view": "profile",  # the scores are those of the target user's own account
            **asdict(membership_metrics(score(confidence, shadows.member), shadows.member)),
        }
        for target, confidence in shadows.confidence.items()
        for attack, score in SCORES.items()
    ]


def _tuned_choice(run: Path, market: str, target: str) -> int:
    path = run / "state" / "ctr" / market / f"tuned-{target}.json"
    return int(json.loads(path.read_text())["choice"]) if path.is_file() else 0


def _noise_multipliers(run: Path, market: str) -> dict[str, float]:
    return dict(json.loads((run / "state" / "budget" / f"{market}.json").read_text()))
