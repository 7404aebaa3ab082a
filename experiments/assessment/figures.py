"""Figures of attacks and audits: what was reached beside what a prior alone reaches, or a guarantee admits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from attacks.membership.evaluate import Inference
from attacks.metrics import roc
from experiments.presentation.drawing import PALETTE, QUIET, Drawing, styled, write_drawing
from privacy.accounting.tradeoff import TradeOffCurve

_LARGEST = 50.0


@styled
def draw_roc(path: Path, inferences: Sequence[Inference], curves: Mapping[str, TradeOffCurve | None]) -> None:
    """Log-log ROC of each view's strongest attack, and the most that the view's guarantee admits of each.

    Args:
        path: of the figure, without its ending.
        inferences: attacks on one target.
        curves: of the guarantees, by view; None where there is none.
    """
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    smallest = 1.0 / max(float((~inference.member).sum(1).max()) for inference in inferences)
    rates = np.geomspace(smallest, 1.0, 200)
    axes.plot(rates, rates, color=QUIET, linestyle=":", label="guessing")
    views = list(dict.fromkeys(inference.view for inference in inferences))
    drawn = []
    for colour, view in zip(PALETTE, views, strict=False):
        own = [inference for inference in inferences if inference.view == view]
        best = max(own, key=lambda inference: inference.metrics.auc.value)
        false, true = roc(best.scores, best.member)
        seen = true > 0
        axes.plot(false[seen], true[seen], color=colour, label=f"{view}: {best.attack}")
        about = {"view": view, "attack": best.attack}
        drawn.append(pd.DataFrame({**about, "false_positive_rate": false, "true_positive_rate": true}))
        guarantee = curves.get(view)
        if guarantee is not None:
            limit = [guarantee.largest_tpr(float(rate)) for rate in rates]
            axes.plot(rates, limit, color=colour, linestyle="--", label=f"{view}: most that its guarantee admits")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(smallest, 1.0),
        ylim=(smallest, 1.0),
        xlabel="false-positive rate",
        ylabel="true-positive rate",
    )
    axes.legend(frameon=False, fontsize=8)
    title = "Membership inference: true against false positives"
    write_drawing(path.parent, Drawing(path.name, title, figure, pd.concat(drawn, ignore_index=True)))


@styled
def draw_reconstruction(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Cosine similarity of rebuilt embeddings, beside that of an adversary who never saw the market."""
    figure = Figure(figsize=(7.2, 0.6 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(results))
    names = [f"{result['market']}: {result['attack']}, {result['view']}" for result in results]
    rows = []
    for offset, key, label, colour in ((0.2, "cosine", "attack", PALETTE[0]), (-0.2, "prior", "prior", PALETTE[1])):
        values = [result[key] for result in results]
        means = np.array([value["value"] for value in values])
        errors = np.abs(np.array([[value["low"], value["high"]] for value in values]).T - means)
        axes.barh(places + offset, means, 0.38, xerr=errors, label=label, color=colour)
        rows += [{"what": name, "by": label, **value} for name, value in zip(names, values, strict=True)]
    axes.set_yticks(places, names)
    axes.set_xlabel("cosine similarity, mean and 95 % interval")
    axes.legend(frameon=False, fontsize=8)
    write_drawing(path.parent, Drawing(path.name, "Rebuilt user embeddings", figure, pd.DataFrame(rows)))


@styled
def draw_queries(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """AUC and TPR at 1 % FPR against queries about a target, a line for each target model and unit."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    shown = (("auc", "AUC", 0.5), ("tpr_at_1_percent_fpr", "TPR at 1 % FPR", 0.01))
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        lines.setdefault(f"{result['market']}, {result['target']}: {result['unit']}s", []).append(result)
    rows = []
    for axes, (key, label, guessed) in zip(figure.subplots(1, 2), shown, strict=True):
        for index, (name, own) in enumerate(lines.items()):
            ordered = sorted(own, key=lambda result: float(result["asked"]))
            asked = [result["asked"] for result in ordered]
            value, low, high = (
                np.array([result[key][part] for result in ordered]) for part in ("value", "low", "high")
            )
            axes.errorbar(
                asked, value, [value - low, high - value], color=PALETTE[index % len(PALETTE)], marker="o", label=name
            )
            rows += [{"what": name, "queries": result["asked"], "measure": label, **result[key]} for result in ordered]
        axes.axhline(guessed, color=QUIET, linestyle=":", label="guessing")
        axes.set(xscale="log", xlabel="queries about a target, mean", ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    write_drawing(path.parent, Drawing(path.name, "Membership inference by queries", figure, pd.DataFrame(rows)))


@styled
def draw_audit(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Claims, the ε from which on each audit would have alarmed, and lower bounds."""
    figure = Figure(figsize=(7.2, 1.0 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(results))
    claimed = [min(result["claimed"], _LARGEST) for result in results]
    axes.barh(places, claimed, 0.7, color="#DDDDDD", label="claimed ε")
    points = {
        "detects": "would have been detected",
        "low_fdp": "lower bound, f-DP",
        "low_one_run": "lower bound, Steinke et al.",
    }
    for (key, label), marker, colour in zip(points.items(), "|o^", PALETTE, strict=False):
        shown = [(result[key], place) for result, place in zip(results, places, strict=True) if result[key] is not None]
        if shown:
            axes.plot(
                *zip(*shown, strict=True), marker, color=colour, label=label, markersize=9 if key == "detects" else 6
            )
    axes.set_yticks(places, [f"{result['stage']}: {result['game']} ({result['verdict']})" for result in results])
    axes.set_xlabel("ε")
    axes.legend(frameon=False, fontsize=8)
    columns = ["stage", "game", "claimed", *points, "verdict"]
    data = pd.DataFrame([{key: result[key] for key in columns} for result in results])
    write_drawing(path.parent, Drawing(path.name, "What audits of the code would have detected", figure, data))
