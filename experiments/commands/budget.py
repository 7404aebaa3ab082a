"""``fedmm budget``: what a configuration spends."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from experiments.commands.options import JsonFlag, SetOption
from experiments.commands.progress import TaskProgress
from experiments.presentation.console import say_json, wide_console
from experiments.presentation.tables import Table, say_folded
from experiments.presentation.text import person_text
from experiments.runs.configuration import resolve
from fedmm_secure.errors import ConfigError
from privacy.accounting.text import delta_text, epsilon_text

BUDGET_HELP = (
    "What a configuration spends by stage and view, and on how much signal, before anything is trained.\n\n"
    "Example: fedmm budget xmarket-release --set privacy.epsilon=2"
)


def budget(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped name or YAML file.")],
    overrides: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """``fedmm budget``."""
    settings = resolve(config, overrides or [])
    if settings.privacy.epsilon is None:
        raise ConfigError(f"{config}: privacy.epsilon is not set, so there is no budget to plan")
    from experiments.runs.budget import run_budget  # the accountants: not to refuse a configuration
    from fedmm_secure.data.prepare import load_markets
    from fedmm_secure.guarantee.plannable import range_text

    with TaskProgress("reading markets", quiet=as_json):
        markets = load_markets(settings.data)
        found = run_budget(settings, markets)
    if as_json:
        say_json(found)
    else:
        _print_budget(found, {market: range_text(plan["plannable"]) for market, plan in found.items()})


def _print_budget(found: dict[str, dict[str, Any]], ranges: dict[str, str]) -> None:
    console = wide_console()
    table = Table("market", "users", "δ", "stage", "ε of the stage alone", "noise multiplier", "SNR", same=3)
    for market, plan in found.items():
        head = [market, str(plan["users"]), delta_text(plan["delta"])]
        for name, stage in plan["stages"].items():
            best = stage["signal_to_noise"]
            ratio = "–" if best is None else f"{best:.2g}"
            table.add_row(*head, name, epsilon_text(stage["epsilon"]), f"{stage['noise_multiplier']:.4g}", ratio)
    console.print(table)
    views = list(next(iter(found.values()))["views"])
    table = Table("epsilon by view", *views, "signal below its noise")
    for market, plan in found.items():
        small = ", ".join(plan["too_small_for"]) or "-"
        table.add_row(market, *(epsilon_text(plan["views"][view]) for view in views), small)
    across = next(iter(found.values())).get("across_markets")
    if across is not None:
        table.add_row("one person in all", *(person_text(across, view) for view in views), "")
    console.print(table)
    if across is not None and across["problem"] is not None:
        say_folded(f"Of a person in all markets nothing is known: {across['problem']}")
    say_folded("SNR: at best, from public sizes; below 1 the market is too small for the stage to tell anything")
    each = ", ".join(f"{market} {text}" for market, text in ranges.items())
    same = next(iter(ranges.values())) if len(set(ranges.values())) == 1 else None
    say_folded(f"ε that can be planned: {same or each}")
    unknown = ", ".join(market for market, plan in found.items() if plan["items"] is None)
    if unknown:
        say_folded(f"Items are yet to be discovered, and how many there are is private, in: {unknown}")
