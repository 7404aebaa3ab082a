"""Figures of a sweep: accuracy against ε with what attacks reach, and along any other axis, whole and by market."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.presentation.drawing import LINES, MARKERS, PALETTE, QUIET, Drawing, styled
from experiments.sweep.grid import MARKETS
from experiments.sweep.summary import accuracy, grouped, markets_of, over_seeds, value_text
from experiments.sweep.table import MACRO
from fedmm_secure.config.choices import CONFIGURED

EPSILON = "privacy.epsilon"
_NOISY = ("noisy-popularity", "noisy-recent-popularity")
_WHITE_BOX = "release"
_WIDE = 7.0


def sweep_drawings(frame: pd.DataFrame, axes: Sequence[str]) -> list[Drawing]:
    """The figures that a sweep's axes call for."""
    varying = [axis for axis in axes if frame[axis].nunique(dropna=False) > 1]
    if EPSILON in varying and frame[EPSILON].notna().any():
        return [draw_pareto(frame, varying), draw_pareto_by_market(frame, varying)]
    if MARKETS in varying:
        return [draw_memberships(frame)]
    return [draw_axis(frame, axis, varying) for axis in varying]


@styled
def draw_pareto(frame: pd.DataFrame, axes: Sequence[str]) -> Drawing:
    """Macro test AUC against ε, with intervals over runs; success of membership inference on the second axis.

    The attack is the strongest on users by who gets the models; other views and units are in the sweep's table.
    """
    figure = Figure(figsize=(_WIDE, 4.6), layout="constrained")
    left = figure.subplots()
    shown = [_epsilon_lines(left, frame, MACRO, axes)]
    left.set_ylabel("macro test AUC")
    attacked = frame[(frame["metric"] == "membership_auc") & (frame["unit"] == "user") & (frame["view"] == _WHITE_BOX)]
    if len(attacked):
        shown += _attack_lines(left, attacked, axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    data = _joined(shown, ["line", EPSILON, "mean", "low", "high"])
    return Drawing("pareto", "Accuracy and attack success against ε", figure, data)


def _attack_lines(left: Axes, attacked: pd.DataFrame, varying: Sequence[str]) -> list[pd.DataFrame]:
    """On an axis of its own, in one colour; a line for each point of the other axes, one across for runs without DP."""
    others = [axis for axis in varying if axis != EPSILON]
    right, colour = left.twinx(), PALETTE[4]
    right.spines["right"].set_visible(True)
    right.set_ylabel("AUC of membership inference on users", color=colour)
    right.tick_params(axis="y", colors=colour)
    right.set_ylim(0.45, 1.02)
    right.axhline(0.5, color=colour, linestyle=LINES[3], linewidth=0.8)
    shown = []
    for index, (key, points) in enumerate(grouped(attacked[attacked[EPSILON].notna()], others)):
        line = over_seeds(points, [EPSILON]).sort_values(EPSILON)
        if len(points) == len(line):  # one attack at each ε: its own interval
            line[["low", "high"]] = points.sort_values(EPSILON)[["low", "high"]].to_numpy()
        name = ", ".join(("attack", *key))
        error = np.stack([line["mean"] - line["low"], line["high"] - line["mean"]])
        right.errorbar(line[EPSILON], line["mean"], error, label=name, color=colour, marker="x",
                       linestyle=LINES[index % len(LINES)], capsize=2, linewidth=1.2)  # fmt: skip
        shown.append(line.assign(line=name))
    for value in attacked.loc[attacked[EPSILON].isna(), "value"].tail(1):
        right.axhline(value, color=colour, linestyle=LINES[2], linewidth=1.2, label="attack, no DP")
        shown.append(pd.DataFrame([{"line": "attack, no DP", "mean": value}]))
    return shown


@styled
def draw_pareto_by_market(frame: pd.DataFrame, axes: Sequence[str]) -> Drawing:
    """The same without attacks, one panel a market."""
    markets = markets_of(frame)
    figure, panels = _panels(len(markets))
    shown = []
    for panel, market in zip(panels, markets, strict=True):
        shown.append(_epsilon_lines(panel, frame, market, axes).assign(market=market))
        panel.set_title(market, fontsize=10)
        if panel is not panels[0]:
            for line in panel.get_lines():
                line.set_label("")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    data = _joined(shown, ["market", "line", EPSILON, "mean", "low", "high"])
    return Drawing("pareto-by-market", "Accuracy against ε by market", figure, data)


def _epsilon_lines(axes: Axes, frame: pd.DataFrame, market: str, varying: Sequence[str]) -> pd.DataFrame:
    others = [axis for axis in varying if axis != EPSILON]
    shown = []
    private = frame[frame[EPSILON].notna()]
    models = [CONFIGURED, *(name for name in _NOISY if name in set(frame["model"].dropna()))]
    index = 0
    for model in models:
        found = accuracy(private, model=model, market=market)
        for key, points in grouped(found, others):
            line = over_seeds(points, [EPSILON]).sort_values(EPSILON)
            name = ", ".join((model, *key))
            _plot(axes, line[EPSILON], line, index, name)
            shown.append(line.assign(line=name))
            index += 1
    public = frame[frame[EPSILON].isna()]
    spread = [float(private[EPSILON].min()), float(private[EPSILON].max())]
    for model, style in ((CONFIGURED, "--"), ("popularity", ":")):
        values = accuracy(public, model=model, market=market)
        if len(values):
            (row,) = over_seeds(values.assign(all=0), ["all"]).to_dict("records")
            name = f"{model}, no DP"
            axes.axhline(row["mean"], color=QUIET, linestyle=style, label=name)
            if row["low"] == row["low"]:
                axes.fill_between(spread, row["low"], row["high"], color=QUIET, alpha=0.2, linewidth=0)
            shown.append(pd.DataFrame([{"line": name, **row}]))
    axes.set_xscale("log")
    ticks = sorted(private[EPSILON].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ε of the run, user level")
    return _joined(shown, ["line", EPSILON, "mean", "low", "high"])


@styled
def draw_axis(frame: pd.DataFrame, axis: str, axes: Sequence[str]) -> Drawing:
    """Test AUC along one axis, macro and by market, a line for each point of the other axes; intervals over runs."""
    others = [name for name in axes if name != axis]
    markets = [MACRO, *markets_of(frame)]
    figure, panels = _panels(len(markets))
    values = list(dict.fromkeys(frame[axis].tolist()))
    numeric = all(isinstance(value, float) for value in values)
    shown = []
    for panel, market in zip(panels, markets, strict=True):
        found = accuracy(frame, market=market)
        for index, (key, points) in enumerate(grouped(found, others)):
            line = over_seeds(points, [axis])
            name = ", ".join(key) or CONFIGURED
            places = line[axis] if numeric else line[axis].map(values.index)
            _plot(panel, places, line, index, name, joined=numeric)
            shown.append(line.assign(market=market, line=name))
        panel.set_title(market, fontsize=10)
        if numeric and max(values) >= 8 * max(min(values), 1e-9):
            panel.set_xscale("log")
        panel.set_xticks(values if numeric else range(len(values)), [value_text(value) for value in values])
        panel.minorticks_off()
        if not numeric:
            panel.set_xlim(-0.5, len(values) - 0.5)
    figure.supxlabel(axis, fontsize=10)
    figure.supylabel("test AUC", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8, title=", ".join(others)
    )
    data = _joined(shown, ["market", "line", axis, "mean", "low", "high"])
    return Drawing(f"auc-by-{axis.replace('.', '-')}", f"Test AUC by {axis}", figure, data)


@styled
def draw_memberships(frame: pd.DataFrame) -> Drawing:
    """What each market's AUC gains or loses against the run of most markets, for every set of markets."""
    found = accuracy_by_market(frame)
    sets = list(dict.fromkeys(found[MARKETS]))
    whole = max(sets, key=lambda names: names.count("+"))
    wide = found.pivot_table(index=[MARKETS, "seed"], columns="market", values="value", sort=False)
    difference = wide - wide.loc[whole].reindex(wide.index.get_level_values("seed")).to_numpy()
    mean = difference.groupby(level=0, sort=False).mean().drop(index=whole)
    figure = Figure(figsize=(_WIDE, 1.4 + 0.45 * len(mean)), layout="constrained")
    axes = figure.subplots()
    limit = float(np.nanmax(np.abs(mean.to_numpy()))) or 1e-3
    image = axes.imshow(mean.to_numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.argwhere(np.isfinite(mean.to_numpy())):
        value = mean.iloc[row, column]
        dark = abs(value) > 0.6 * limit
        axes.text(
            column, row, f"{value:+.3f}", ha="center", va="center", color="white" if dark else "#111111", fontsize=8
        )
    axes.set_xticks(range(len(mean.columns)), mean.columns)
    axes.set_yticks(range(len(mean)), [_set_text(name, whole) for name in mean.index])
    axes.set_xlabel("market whose AUC is measured")
    figure.colorbar(image, ax=axes, label="AUC minus that with all markets")
    data = difference.reset_index().melt([MARKETS, "seed"], var_name="market", value_name="difference").dropna()
    return Drawing("auc-by-markets", f"AUC of each market beside that of the run of {whole}", figure, data)


def _joined(shown: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Rows of all lines of a figure; none where noise left no figure of any."""
    return pd.concat(shown, ignore_index=True)[columns] if shown else pd.DataFrame(columns=columns, dtype="float64")


def accuracy_by_market(frame: pd.DataFrame) -> pd.DataFrame:
    """Test AUC of the configured model in every market."""
    found = frame[(frame["metric"] == "auc") & (frame["model"] == CONFIGURED)]
    return found[found["market"] != MACRO]


def _set_text(name: str, whole: str) -> str:
    missing = [market for market in whole.split("+") if market not in name.split("+")]
    return f"without {missing[0]}" if len(missing) == 1 else name


def _plot(axes: Axes, places: pd.Series, line: pd.DataFrame, index: int, name: str, *, joined: bool = True) -> None:
    at = index % len(PALETTE)
    known = line["low"].notna()
    error = np.where(known, line["high"] - line["mean"], 0.0)
    style = LINES[at] if joined else "none"
    axes.errorbar(places, line["mean"], error, label=name, color=PALETTE[at], marker=MARKERS[at],
                  markersize=4, linestyle=style, linewidth=1.4, capsize=2)  # fmt: skip


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    columns = min(n, 3 if n <= 6 else 4)
    rows = -(-n // columns)
    figure = Figure(figsize=(max(_WIDE, 2.3 * columns), 0.8 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for empty in panels[n:]:
        empty.remove()
    return figure, panels[:n]
