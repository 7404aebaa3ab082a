"""A self-contained HTML page of a run: metrics, privacy per view, curves, attacks."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from experiments.run_directory import read_config, read_metrics
from experiments.verification import verify_run
from fedmm_secure.federation.setup import DECRYPTED_VIEWS
from fedmm_secure.statement import STAGES, VIEWS
from fedmm_secure.storage import write_atomic

# Okabe-Ito: told apart by colour-blind readers and in print
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
REPORT = "report.html"


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into a finished run's directory.

    Raises:
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_config(directory), read_metrics(directory)
    statements = metrics["privacy"]["markets"]
    first = next(iter(statements.values()))
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=directory.resolve().name,
            config=config,
            metrics=metrics,
            baselines=list(metrics["macro"]["baselines"]),
            views=[*VIEWS, "profile"],
            privacy={market: _privacy_row(views) for market, views in statements.items()},
            bases={view: first[view]["basis"] for view in (*VIEWS, "profile")},
            market_epsilon=epsilon_text(_worst(views["market"]["epsilon"] for views in statements.values())),
            release_epsilon=epsilon_text(_worst(views["release"]["epsilon"] for views in statements.values())),
            seeded=any(views["seeded"] for views in statements.values()),
            stages=STAGES,
            accounted=DECRYPTED_VIEWS,
            findings=verify_run(directory),
            attacks=_attack_rows(directory),
            accuracy_figure=_accuracy_figure(metrics),
            loss_figure=_loss_figure(directory),
            environment=json.loads((directory / "environment.json").read_text(encoding="utf-8")),
        )
    )
    path = directory / REPORT
    write_atomic(path, html.encode())
    return path


def epsilon_text(epsilon: float | None) -> str:
    """``∞`` for unbounded; otherwise rounded up, so that the text never claims too much."""
    if epsilon is None or math.isinf(epsilon):
        return "∞"
    return f"{math.ceil(epsilon * 1000) / 1000:g}"


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("experiments")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)


def _worst(epsilons: Any) -> float | None:
    values = list(epsilons)
    return None if any(value is None for value in values) else max(values)


def _privacy_row(views: Mapping[str, Any]) -> dict[str, Any]:
    over_runs = views["with_earlier_runs"]
    return {
        "cells": [epsilon_text(views[view]["epsilon"]) for view in (*VIEWS, "profile")],
        "changed": [_with_delta(views[view]["changed_rows"]) for view in VIEWS],
        "stages": [_stage_text(views["stages"][stage]) for stage in STAGES],
        "delta": f"{views['market']['delta']:.2g}",
        "earlier_runs": over_runs["earlier_runs"],
        "over_runs": [epsilon_text(over_runs[view]["epsilon"]) for view in DECRYPTED_VIEWS],
    }


def _stage_text(stage: Mapping[str, Any] | None) -> str:
    return "–" if stage is None else epsilon_text(stage["epsilon"])


def _with_delta(guarantee: Mapping[str, Any]) -> str:
    if guarantee["epsilon"] is None:
        return "∞"
    return f"{epsilon_text(guarantee['epsilon'])}, δ {guarantee['delta']:.2g}"


def _attack_rows(directory: Path) -> list[dict[str, str]]:
    path = directory / "attacks" / "attacks.json"
    if not path.is_file():
        return []
    rows = []
    found = json.loads(path.read_text(encoding="utf-8"))
    for result in strongest(found.get("membership", [])):
        rows.append(
            {
                "attack": f"membership of {result['unit']}s, {result['attack']}, {result['market']}",
                "target": f"{result['target']}, {result['view']} view",
                "score": estimate_text(result["auc"]),
                "tpr": estimate_text(result["tpr_at_1_percent_fpr"]),
            }
        )
    for result in found.get("inversion", []):
        rows.append(
            {
                "attack": "codebook inversion: updates recovered exactly",
                "target": f"{result['view']} view, {result['aggregation']}",
                "score": estimate_text(result["exact_share"]),
                "tpr": "",
            }
        )
    return rows


def strongest(membership: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the results of membership inference, that of largest AUC for each market, target, unit and view."""
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for result in membership:
        about = tuple(result[key] for key in ("market", "target", "unit", "view"))
        if about not in best or result["auc"]["value"] > best[about]["auc"]["value"]:
            best[about] = result
    return list(best.values())


def estimate_text(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _accuracy_figure(metrics: Mapping[str, Any]) -> str:
    names = ["fedmm", *metrics["macro"]["baselines"]]
    markets = list(metrics["markets"])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        values = [_auc(metrics["markets"][market], name) for market in markets]
        positions = [place - 0.4 + width * (index + 0.5) for place in range(len(markets))]
        axes.bar(positions, values, width, label=name, color=PALETTE[index % len(PALETTE)])
    axes.set_xticks(range(len(markets)), markets)
    axes.set_ylim(0.4, 1.0)
    axes.axhline(0.5, color="#777777", linewidth=0.8, linestyle=":")
    axes.set_ylabel("test AUC")
    figure.legend(loc="outside right upper", frameon=False)
    return _svg(figure)


def _auc(values: Mapping[str, Any], name: str) -> float:
    return float(values["auc"] if name == "fedmm" else values["baselines"][name]["auc"])


def _loss_figure(directory: Path) -> str:
    """RQ-VAE training loss of each market by round, first seed; from the market-side log."""
    curves: dict[str, dict[int, float]] = {}
    seed = None
    log = directory / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        event = json.loads(line)
        if event["event"] != "round":
            continue
        seed = event["seed"] if seed is None else seed
        if event["seed"] == seed:
            for market, found in event["markets"].items():
                curves.setdefault(market, {})[event["round"]] = found["loss"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for index, (market, points) in enumerate(sorted(curves.items())):
        axes.plot(list(points), list(points.values()), label=market, color=PALETTE[index % len(PALETTE)], marker=".")
    axes.set_xlabel("round")
    axes.set_ylabel("RQ-VAE loss")
    if curves:
        figure.legend(loc="outside right upper", frameon=False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    text = svg_text(figure)
    return text[text.index("<svg") :]


def svg_text(figure: Figure) -> str:
    """A figure as a file of its own; the same for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
