"""Figures of one run: accuracy, rounds, codebooks, communication.

Under a budget they are drawn from what is handed out (docs/verification.md): metrics, ledger, transcript. Without one
no page has a bound, and the owner's shows losses and users' codes too, from the files that the owner keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from experiments.presentation.drawing import HATCHES, LINES, MARKERS, PALETTE, QUIET, Drawing, styled
from experiments.presentation.text import figure_text, natural_key
from experiments.reports.accuracy import MANY_MARKETS
from experiments.reports.codebook import UsedCodebook, codebook_of, coded
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.data.market import FloatArray
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.transcript import INDEX, read_index, read_record
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from fedmm_secure.storage.layout import LOG_FILE, RunDirectory
from privacy.aggregation.bundle import BUNDLE_FILE, read_bundle
from privacy.foreign import ForeignDirectory

WIDE, NARROW = 11.0, 4.0  # inches: as wide as a page, and as a phone


def run_drawings(directory: Path, config: Config, metrics: Mapping[str, Any]) -> dict[str, Drawing]:
    """Every figure that a run has data for, by name."""
    codebook = codebook_of(directory, config, metrics)
    found: dict[str, Drawing | None] = {
        "accuracy": draw_accuracy(metrics),
        "loss": draw_loss(directory, config),
        "usage": draw_usage(config, codebook),
        "movement": draw_movement(directory, config),
        "map": draw_map(config, codebook),
        "communication": draw_communication(directory),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


@styled
def draw_accuracy(metrics: Mapping[str, Any]) -> Drawing:
    """Test AUC of the configured model and its baselines, by market: bars, or dots where there are many markets."""
    names = [CONFIGURED, *metrics["macro"]["baselines"]]
    markets = sorted(metrics["markets"], key=natural_key)
    data = pd.DataFrame(
        {"market": market, "model": name, "auc": _auc(metrics["markets"][market], name)}
        for market in markets
        for name in names
    )
    values = {name: data.loc[data["model"] == name, "auc"].to_numpy() for name in names}
    if len(markets) > MANY_MARKETS:
        height = 1.2 + 0.24 * len(markets) + 0.2 * len(names)
        wide, narrow = (_accuracy_dots(markets, values, width, height) for width in (WIDE, NARROW))
    else:
        height = 1.0 + 0.2 * len(names) + len(markets) * (0.25 + 0.13 * len(names))
        wide, narrow = _accuracy_bars(markets, values), _accuracy_rows(markets, values, height)
    notes = {
        f"mark-{index}-{market}": f"{name} in {market}: AUC {figure_text(value)}"
        for index, (name, found) in enumerate(values.items())
        for market, value in zip(markets, found, strict=True)
    }
    return Drawing("accuracy", "Test AUC by market and model", wide, data, notes, narrow)


def _accuracy_bars(markets: Sequence[str], values: Mapping[str, FloatArray]) -> Figure:
    figure, axes = _figure(WIDE, 3.8)
    for index, name, places, width in _beside(values, len(markets)):
        bars = axes.bar(places, values[name], width, label=name, **_filled(index))
        _name_marks(bars, index, markets)
    axes.set_xticks(range(len(markets)), markets)
    axes.set_ylim(*_auc_range(values))
    axes.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_ylabel("test AUC")
    _legend(figure, narrow=False)
    return figure


def _accuracy_rows(markets: Sequence[str], values: Mapping[str, FloatArray], height: float) -> Figure:
    """The same for a phone: bars lie down, markets stand one below the other."""
    figure, axes = _figure(NARROW, height)
    for index, name, places, width in _beside(values, len(markets)):
        bars = axes.barh(places, values[name], width, label=name, **_filled(index))
        _name_marks(bars, index, markets)
    axes.set_xlim(*_auc_range(values))
    axes.axvline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    _markets_down(figure, axes, markets)
    return figure


def _accuracy_dots(markets: Sequence[str], values: Mapping[str, FloatArray], width: float, height: float) -> Figure:
    figure, axes = _figure(width, height)
    for index, (name, found) in enumerate(values.items()):
        at = index % len(PALETTE)
        for place, (market, value) in enumerate(zip(markets, found, strict=True)):
            label = name if place == 0 else None
            (dot,) = axes.plot(value, place, color=PALETTE[at], marker=MARKERS[at], linestyle="none", label=label)
            dot.set_gid(f"mark-{index}-{market}")
    axes.grid(axis="y", color=QUIET, linewidth=0.4, alpha=0.5)
    axes.axvline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    _markets_down(figure, axes, markets)
    return figure


def _markets_down(figure: Figure, axes: Axes, markets: Sequence[str]) -> None:
    axes.set_yticks(range(len(markets)), markets)
    axes.set_ylim(len(markets) - 0.5, -0.5)  # the first market on top
    axes.set_xlabel("test AUC")
    _legend(figure, narrow=figure.get_figwidth() < WIDE)


def _beside(values: Mapping[str, FloatArray], n_markets: int) -> Iterator[tuple[int, str, FloatArray, float]]:
    """Of each model its number, its name, where its bars stand, and how thick they are."""
    width = 0.8 / len(values)
    for index, name in enumerate(values):
        yield index, name, np.arange(n_markets, dtype=np.float64) - 0.4 + width * (index + 0.5), width


def _filled(index: int) -> dict[str, Any]:
    at = index % len(PALETTE)
    return {"color": PALETTE[at], "hatch": HATCHES[at], "edgecolor": "white"}


def _name_marks(bars: Iterable[Any], index: int, markets: Sequence[str]) -> None:
    for bar, market in zip(bars, markets, strict=True):
        bar.set_gid(f"mark-{index}-{market}")


def _auc_range(values: Mapping[str, FloatArray]) -> tuple[float, float]:
    smallest = min((float(np.nanmin(found)) for found in values.values() if not np.isnan(found).all()), default=0.5)
    return min(0.45, smallest - 0.02), 1.0


def _auc(values: Mapping[str, Any], name: str) -> float:
    found = values["auc"] if name == CONFIGURED else values["baselines"][name]["auc"]
    return np.nan if found is None else float(found)


@styled
def draw_loss(directory: Path, config: Config) -> Drawing | None:
    """RQ-VAE training loss of each market by round, first seed; from the market-side log.

    None under a budget, which does not pay for it: it is an exact figure of users' rows.
    """
    if config.privacy.epsilon is not None:
        return None
    rows = [
        {"seed": event["seed"], "round": event["round"], "market": market, "loss": found["loss"]}
        for event in _events(directory, "round")
        for market, found in event["markets"].items()
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows).drop_duplicates(["seed", "round", "market"], keep="last")
    data = data[data["seed"] == data["seed"].iloc[0]]
    wide, narrow = _by_market(data, x="round", y="loss", labels=("round", "RQ-VAE loss"))
    return Drawing("loss", "Training loss of the RQ-VAE by round", wide, data, narrow=narrow)


@styled
def draw_usage(config: Config, codebook: UsedCodebook) -> Drawing | None:
    """Share of what is coded on each global code, by market; codes by falling use."""
    rows = [
        {"market": market, "rank": rank + 1, "code": int(code), "share": share[code]}
        for market, share in codebook.shares.items()
        for rank, code in enumerate(np.argsort(-share, kind="stable"))
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows)
    labels = ("global codes, by falling use", f"share of {coded(config)}")
    wide, narrow = _by_market(data, x="rank", y="share", labels=labels)
    return Drawing("usage", "Use of the global codes", wide, data, narrow=narrow)


@styled
def draw_movement(directory: Path, config: Config) -> Drawing | None:
    """Norm of the movement of each global codeword in each round, mean of the markets; from the revealed sums."""
    sums = _sums(directory, config)
    if not sums:
        return None
    moved = np.stack([np.linalg.norm(values, axis=1) for values in sums.values()], axis=1)

    def paint(width: float) -> Figure:
        figure, axes = _figure(width, 3.4)
        image = axes.imshow(moved, aspect="auto", cmap="cividis", interpolation="nearest", origin="lower")
        figure.colorbar(image, ax=axes, label="norm of movement")
        axes.set(xlabel="round", ylabel="global code")
        return figure

    rounds = list(sums)
    data = pd.DataFrame(moved, columns=[f"round {round + 1}" for round in rounds]).rename_axis("code").reset_index()
    title = "Movement of the global codewords by round"
    return Drawing("movement", title, paint(WIDE), data, narrow=paint(NARROW))


@styled
def draw_map(config: Config, codebook: UsedCodebook) -> Drawing | None:
    """Global codewords on their first two principal components, as large as the share of rows on them."""
    words = codebook.words
    if words is None or not codebook.shares:
        return None
    share = np.mean(list(codebook.shares.values()), axis=0)
    places = PCA(2, svd_solver="full").fit_transform(words)

    def paint(width: float, height: float) -> Figure:
        figure, axes = _figure(width, height)
        for code, (x, y) in enumerate(places):
            used = share[code] > 0
            (mark,) = axes.plot(x, y, "o", markersize=3.0 + 40.0 * float(np.sqrt(share[code])), alpha=0.7,
                                color=PALETTE[0] if used else "none",
                                markeredgecolor=PALETTE[0] if used else QUIET)  # fmt: skip
            mark.set_gid(f"code-{code}")
        axes.set(xlabel="first principal component", ylabel="second principal component")
        return figure

    notes = {f"code-{code}": f"code {code}: {100 * used:.1f} % of {coded(config)}" for code, used in enumerate(share)}
    data = pd.DataFrame({"code": range(len(words)), "x": places[:, 0], "y": places[:, 1], "share": share})
    title = "Map of the global codebook; empty circles are unused codes"
    return Drawing("map", title, paint(WIDE, 4.6), data, notes, paint(NARROW, 4.0))


@styled
def draw_communication(directory: Path) -> Drawing | None:
    """Bytes that left each market and reached it, by round."""
    index = RunDirectory(directory).transcript
    if not (index / INDEX).is_file():
        return None
    records = [r for r in read_index(index) if r.kind in ("update", "aggregate")]
    if not records:
        return None
    rows = [{"round": r.round + 1, "kind": r.kind, "bytes": r.size * max(r.receivers, 1)} for r in records]
    data = pd.DataFrame(rows).groupby(["round", "kind"]).agg({"bytes": "sum"}).reset_index()
    labels = {"update": "up: updates", "aggregate": "down: sums, to all markets"}

    def paint(width: float) -> Figure:
        figure, axes = _figure(width, 2.8)
        for position, (kind, label) in enumerate(labels.items()):
            points = data.loc[data["kind"] == kind]
            axes.plot(points["round"], points["bytes"] / 1024, label=label, markersize=3, **_line(position))
        axes.set(xlabel="round", ylabel="KiB")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, narrow=width < WIDE)
        return figure

    title = "Bytes of all markets and seeds by round"
    return Drawing("communication", title, paint(WIDE), data, narrow=paint(NARROW))


def _sums(directory: Path, config: Config) -> dict[int, FloatArray]:
    """Mean movement ``(global_codes, latent_dim)`` of each round, first seed."""
    transcript = RunDirectory(directory).transcript
    if not (transcript / INDEX).is_file() or not (transcript / BUNDLE_FILE).is_file():
        return {}
    bundle = read_bundle(transcript / BUNDLE_FILE, below=directory)  # all markets, those of other machines too
    codec = AggregationPlan.from_public(bundle.aggregation).codec
    stage, shape = seed_stage(QUANTIZER, config.seed[0]), (config.quantizer.global_codes, config.quantizer.latent_dim)
    found = {}
    for record in read_index(transcript):
        if record.kind == "sum" and record.stage == stage:
            values = np.frombuffer(read_record(transcript, record), dtype="<i8").astype(np.int64)
            found[record.round] = codec.decode(values)[: shape[0] * shape[1]].reshape(shape) / len(bundle.markets)
    return dict(sorted(found.items()))


def _events(directory: Path, kind: str) -> Iterator[dict[str, Any]]:
    run = ForeignDirectory(directory)
    for event in run.lines(LOG_FILE) if run.has(LOG_FILE) else []:
        if event["event"] == kind:
            yield event


def _by_market(data: pd.DataFrame, *, x: str, y: str, labels: tuple[str, str]) -> tuple[Figure, Figure]:
    """One line for each market, wide and narrow; of many markets thin lines and their median, without a legend."""
    markets = sorted(data["market"].unique(), key=natural_key)

    def paint(width: float) -> Figure:
        figure, axes = _figure(width, 3.4)
        if len(markets) > MANY_MARKETS:
            for market in markets:
                points = data[data["market"] == market]
                axes.plot(points[x], points[y], color=QUIET, linewidth=0.7, alpha=0.6)
            middle = data.groupby(x)[y].median()
            axes.plot(middle.index, middle, color=PALETTE[0], linewidth=2, label=f"median of {len(markets)} markets")
        else:
            for index, market in enumerate(markets):
                points = data[data["market"] == market]
                axes.plot(points[x], points[y], label=market, markersize=3, **_line(index))
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, narrow=width < WIDE)
        return figure

    return paint(WIDE), paint(NARROW)


def _legend(figure: Figure, *, narrow: bool) -> None:
    names = [text for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    longest = max(map(len, names), default=0)
    columns = max(1, min(len(names), int((32 if narrow else 110) / (longest + 6))))
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _line(index: int) -> dict[str, Any]:
    at = index % len(PALETTE)
    return {"color": PALETTE[at], "marker": MARKERS[at], "linestyle": LINES[at]}
