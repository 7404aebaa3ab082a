"""Figures of one run: accuracy, rounds, codebooks, communication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from experiments.reports.drawing import HATCHES, LINES, MARKERS, PALETTE, QUIET, Drawing, styled
from experiments.reports.text import figure_text
from experiments.run_directory import LOG_FILE
from fedmm_secure.artefacts import quantizer_path, read_codes
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.data.market import FloatArray
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.transcript import INDEX, read_index, read_record
from fedmm_secure.guarantee.publications import WORDS, model_arrays, read_tensors
from fedmm_secure.guarantee.stages import QUANTIZER, seed_stage
from privacy.aggregation.keys import BUNDLE_FILE, read_bundle
from privacy.foreign import ForeignDirectory

_WIDTH = 7.0


def run_drawings(directory: Path, config: Config, metrics: Mapping[str, Any]) -> dict[str, Drawing]:
    """Every figure that a run has data for, by name."""
    found: dict[str, Drawing | None] = {
        "accuracy": draw_accuracy(metrics),
        # losses are exact figures of users' rows, and a page of noisy ones travels
        "loss": None if config.private_evaluation else draw_loss(directory),
        "usage": draw_usage(directory, config),
        "movement": draw_movement(directory, config),
        "map": draw_map(directory, config, list(metrics["markets"])),
        "communication": draw_communication(directory),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


@styled
def draw_accuracy(metrics: Mapping[str, Any]) -> Drawing:
    """Test AUC of the configured model and its baselines, by market."""
    names, markets = [CONFIGURED, *metrics["macro"]["baselines"]], list(metrics["markets"])
    data = pd.DataFrame(
        {"market": market, "model": name, "auc": _auc(metrics["markets"][market], name)}
        for market in markets
        for name in names
    )
    figure, axes = _figure(3.4)
    width = 0.8 / len(names)
    notes = {}
    for index, name in enumerate(names):
        values = data.loc[data["model"] == name, "auc"]
        places = np.arange(len(markets)) - 0.4 + width * (index + 0.5)
        at = index % len(PALETTE)
        bars = axes.bar(places, values, width, label=name, color=PALETTE[at], hatch=HATCHES[at], edgecolor="white")
        for bar, market, value in zip(bars, markets, values, strict=True):
            bar.set_gid(f"bar-{index}-{market}")
            notes[f"bar-{index}-{market}"] = f"{name} in {market}: AUC {figure_text(value)}"
    axes.set_xticks(range(len(markets)), markets)
    axes.set_ylim(np.nanmin([0.45, float(data["auc"].min()) - 0.02]), 1.0)
    axes.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_ylabel("test AUC")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return Drawing("accuracy", "Test AUC by market and model", figure, data, notes)


def _auc(values: Mapping[str, Any], name: str) -> float:
    found = values["auc"] if name == CONFIGURED else values["baselines"][name]["auc"]
    return np.nan if found is None else float(found)


@styled
def draw_loss(directory: Path) -> Drawing | None:
    """RQ-VAE training loss of each market by round, first seed; from the market-side log."""
    rows = [
        {"seed": event["seed"], "round": event["round"], "market": market, "loss": found["loss"]}
        for event in _events(directory, "round")
        for market, found in event["markets"].items()
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows).drop_duplicates(["seed", "round", "market"], keep="last")
    data = data[data["seed"] == data["seed"].iloc[0]]
    figure = _by_market(data, x="round", y="loss", labels=("round", "RQ-VAE loss"))
    return Drawing("loss", "Training loss of the RQ-VAE by round", figure, data)


@styled
def draw_usage(directory: Path, config: Config) -> Drawing | None:
    """Share of users and items on each global code, by market, first seed; codes by falling use."""
    rows = [
        {"market": market, "rank": rank + 1, "code": int(code), "share": share[code]}
        for market, share in _shares(directory, config).items()
        for rank, code in enumerate(np.argsort(-share, kind="stable"))
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows)
    labels = ("global codes, by falling use", f"share of {_coded(config)}")
    figure = _by_market(data, x="rank", y="share", labels=labels)
    return Drawing("usage", "Use of the global codes", figure, data)


@styled
def draw_movement(directory: Path, config: Config) -> Drawing | None:
    """Norm of the movement of each global codeword in each round, mean of the markets; from the revealed sums."""
    sums = _sums(directory, config)
    if not sums:
        return None
    moved = np.stack([np.linalg.norm(values, axis=1) for values in sums.values()], axis=1)
    figure, axes = _figure(3.2)
    image = axes.imshow(moved, aspect="auto", cmap="cividis", interpolation="nearest", origin="lower")
    figure.colorbar(image, ax=axes, label="norm of movement")
    axes.set(xlabel="round", ylabel="global code")
    rounds = list(sums)
    data = pd.DataFrame(moved, columns=[f"round {round + 1}" for round in rounds]).rename_axis("code").reset_index()
    return Drawing("movement", "Movement of the global codewords by round", figure, data)


@styled
def draw_map(directory: Path, config: Config, markets: list[str]) -> Drawing | None:
    """Global codewords on their first two principal components, as large as the share of rows on them."""
    path = quantizer_path(directory, markets[0], config.seed[0])
    run = ForeignDirectory(directory)
    name = path.relative_to(directory).as_posix()
    if not run.has(name):
        return None
    words = read_tensors(run.bytes(name), model_arrays(config))[WORDS].astype(np.float64)
    share = np.mean(list(_shares(directory, config).values()), axis=0)
    places = PCA(2, svd_solver="full").fit_transform(words)
    figure, axes = _figure(4.2)
    notes = {}
    for code, (x, y) in enumerate(places):
        size = 3.0 + 40.0 * float(np.sqrt(share[code]))
        used = share[code] > 0
        (mark,) = axes.plot(x, y, "o", markersize=size, alpha=0.7, color=PALETTE[0] if used else "none",
                            markeredgecolor=PALETTE[0] if used else QUIET)  # fmt: skip
        mark.set_gid(f"code-{code}")
        notes[f"code-{code}"] = f"code {code}: {100 * share[code]:.1f} % of {_coded(config)}"
    axes.set(xlabel="first principal component", ylabel="second principal component")
    data = pd.DataFrame({"code": range(len(words)), "x": places[:, 0], "y": places[:, 1], "share": share})
    return Drawing("map", "Map of the global codebook; empty circles are unused codes", figure, data, notes)


@styled
def draw_communication(directory: Path) -> Drawing | None:
    """Bytes that left each market and reached it, by round."""
    index = directory / "transcript"
    if not (index / INDEX).is_file():
        return None
    records = [r for r in read_index(index) if r.kind in ("update", "aggregate")]
    if not records:
        return None
    rows = [{"round": r.round + 1, "kind": r.kind, "bytes": r.size * max(r.receivers, 1)} for r in records]
    data = pd.DataFrame(rows).groupby(["round", "kind"]).agg({"bytes": "sum"}).reset_index()
    figure, axes = _figure(2.4)
    for position, (kind, label) in enumerate((("update", "up: updates"), ("aggregate", "down: sums, to all markets"))):
        points = data.loc[data["kind"] == kind]
        axes.plot(points["round"], points["bytes"] / 1024, label=label, markersize=3, **_line(position))
    axes.set(xlabel="round", ylabel="KiB")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return Drawing("communication", "Bytes of all markets and seeds by round", figure, data)


def _shares(directory: Path, config: Config) -> dict[str, FloatArray]:
    """Share of a market's users and items on each global code ``(global_codes,)``, first seed.

    Where test figures are private ones, of items alone, whose codes are published: the page travels.
    """
    found = {}
    for path in sorted((directory / "codes").glob("*.parquet")):
        codes = read_codes(directory, f"codes/{path.name}")
        if config.private_evaluation:
            codes = codes[codes["kind"] == "item"]
        chosen = codes.loc[codes["seed"] == config.seed[0], "global_code"]
        counts = np.bincount(chosen, minlength=config.quantizer.global_codes)
        found[path.stem] = np.asarray(counts / max(len(chosen), 1), dtype=np.float64)
    return found


def _coded(config: Config) -> str:
    return "items" if config.private_evaluation else "users and items"


def _sums(directory: Path, config: Config) -> dict[int, FloatArray]:
    """Mean movement ``(global_codes, latent_dim)`` of each round, first seed."""
    transcript = directory / "transcript"
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


def _by_market(data: pd.DataFrame, *, x: str, y: str, labels: tuple[str, str]) -> Figure:
    """One line for each market."""
    figure, axes = _figure(3.0)
    for index, (market, points) in enumerate(data.groupby("market")):
        axes.plot(points[x], points[y], label=market, markersize=3, **_line(index))
    axes.set(xlabel=labels[0], ylabel=labels[1])
    figure.legend(loc="outside upper center", ncols=7, frameon=False, fontsize=9)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _line(index: int) -> dict[str, Any]:
    at = index % len(PALETTE)
    return {"color": PALETTE[at], "marker": MARKERS[at], "linestyle": LINES[at]}
