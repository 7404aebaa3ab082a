"""``fedmm compare`` and ``fedmm runs``: runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure
from rich.table import Table
from scipy import stats

from experiments.compliance.evidence import read_attacks, read_audits
from experiments.console import say, wide_console
from experiments.options import JsonFlag
from experiments.reports.drawing import LINES, MARKERS, PALETTE, QUIET, Drawing, styled, write_drawing
from experiments.reports.text import difference_text, figure_text, worst
from experiments.run_directory import examining, read_environment, read_foreign_config
from experiments.sweep.cells import DONE_FILE
from experiments.sweep.scheduler import is_sweep
from fedmm_secure.artefacts import write_parquet
from fedmm_secure.ctr.metrics import CONFIDENCE, Interval, paired_auc_difference
from fedmm_secure.ctr.recipes import CONFIGURED
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.closing import read_metrics
from fedmm_secure.foreign import parse_table
from fedmm_secure.provenance import CONFIG_FILE, METRICS_FILE
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage import write_json
from privacy.accounting.text import epsilon_text
from privacy.errors import InputError
from privacy.foreign import ForeignDirectory

COMPARE_HELP = (
    "Runs side by side: test AUC, and the differences from the first with 95 % intervals, paired where the runs ranked "
    "the same candidates.\n\n"
    "Example: fedmm compare runs/a runs/b runs/c --out runs/comparison"
)
RUNS_HELP = "List the runs and sweeps in a folder.\n\nExample: fedmm runs runs"
TABLE = "comparison.parquet"


@dataclass(frozen=True)
class Difference:
    """AUC of one run in one market, and its difference from the first run's.

    Attributes:
        run: name of the run.
        market: the market.
        auc: mean over seeds; None where the noise of private figures leaves nothing to say.
        difference: from the first run; None for that itself, and where the first run lacks the market.
        paired: whether both ranked the same candidates: a bootstrap over users, otherwise Welch's t over seeds.
    """

    run: str
    market: str
    auc: float | None
    difference: Interval | None
    paired: bool


def compare_runs(runs: Sequence[Path], model: str = CONFIGURED) -> list[Difference]:
    """Differences of every run from the first, market by market.

    Raises:
        RunDirectoryError: not a finished run.
        ConfigError: a run lacks the model, or there is nothing to compare.
    """
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    metrics = [_metrics_of(run, model) for run in runs]
    names = _names(runs)
    found = []
    for run, name, own in zip(runs, names, metrics, strict=True):
        for market, values in own.items():
            first = metrics[0].get(market)
            difference, paired = None, False
            if run is not runs[0] and first is not None:
                # noisy figures say nothing of candidates: their runs are never paired, nor are predictions read
                ranked = [found.get("candidates") for found in (values, first)]
                paired = None not in ranked and ranked[0] == ranked[1]
                difference = _paired(run, runs[0], market, model) if paired else _unpaired(values, first, model)
            auc = _section(values, model)["auc"]
            found.append(Difference(name, market, auc, difference, paired))
    return found


def _metrics_of(run: Path, model: str) -> Mapping[str, Any]:
    markets = read_metrics(run)["markets"]
    for values in markets.values():
        if model != CONFIGURED and model not in values["baselines"]:
            known = ", ".join([CONFIGURED, *values["baselines"]])
            raise ConfigError(f"--model {model}: {run} has {known}")
    return dict(markets)


def _section(values: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    return values if model == CONFIGURED else dict(values["baselines"][model])


def _paired(run: Path, first: Path, market: str, model: str) -> Interval:
    candidates, ours = _predictions(run, market, model)
    _, theirs = _predictions(first, market, model)
    return paired_auc_difference(candidates, ours, theirs, rng=numpy_generator("compare", market, model))


def _predictions(run: Path, market: str, model: str) -> tuple[Candidates, list[FloatArray]]:
    directory, name = ForeignDirectory(run), f"predictions/{market}.parquet"
    if not directory.has(name):
        raise RunDirectoryError(f"{run / name}: missing; differences are computed from predictions")
    frame = parse_table(directory.bytes(name), run / name)
    candidates = Candidates(frame["user"].to_numpy(), frame["item"].to_numpy(), frame["label"].to_numpy())
    columns = [name for name in frame.columns if name.rsplit("/", 1)[0] == model]
    return candidates, [frame[name].to_numpy(dtype=np.float64) for name in columns]


def _unpaired(values: Mapping[str, Any], first: Mapping[str, Any], model: str) -> Interval | None:
    known = [_section(found, model)["auc_by_seed"] for found in (values, first)]
    if any(None in by_seed for by_seed in known):
        return None
    ours, theirs = (np.asarray(by_seed) for by_seed in known)
    mean = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Interval(mean, None, None)
    bounds = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(mean, float(bounds.low), float(bounds.high))


def _names(runs: Sequence[Path]) -> list[str]:
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def comparison_table(found: Sequence[Difference]) -> pd.DataFrame:
    """One row for each run and market: ``run, market, auc, difference, low, high, paired``."""
    return pd.DataFrame(
        {
            "run": row.run,
            "market": row.market,
            "auc": row.auc,
            "difference": None if row.difference is None else row.difference.mean,
            "low": None if row.difference is None else row.difference.low,
            "high": None if row.difference is None else row.difference.high,
            "paired": row.paired,
        }
        for row in found
    ).astype({"auc": "float64", "difference": "float64", "low": "float64", "high": "float64"})


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; what is missing is null."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


@styled
def draw_comparison(table: pd.DataFrame) -> Drawing:
    """Differences from the first run, by market, with 95 % intervals."""
    shown = table[table["difference"].notna()]
    markets = list(dict.fromkeys(shown["market"]))
    runs = list(dict.fromkeys(shown["run"]))
    figure = Figure(figsize=(7.0, 1.6 + 0.28 * len(markets) * max(len(runs), 1)), layout="constrained")
    axes = figure.subplots()
    for index, run in enumerate(runs):
        own = shown[shown["run"] == run].set_index("market").reindex(markets)
        places = np.arange(len(markets)) + (index - (len(runs) - 1) / 2) * 0.7 / len(runs)
        low, high = own["difference"] - own["low"], own["high"] - own["difference"]
        errors = np.nan_to_num(np.stack([low, high]))
        at = index % len(PALETTE)
        axes.errorbar(own["difference"], places, xerr=errors, label=run, color=PALETTE[at], marker=MARKERS[at],
                      linestyle="none", capsize=3)  # fmt: skip
    axes.axvline(0.0, color=QUIET, linestyle=LINES[3])
    axes.set_yticks(range(len(markets)), markets)
    axes.invert_yaxis()
    axes.set_xlabel(f"test AUC minus that of {table['run'].iloc[0]}, 95 %")
    if runs:
        figure.legend(loc="outside upper center", frameon=False, fontsize=8)
    return Drawing("differences", "Differences in test AUC by market", figure, shown)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories; the first is compared with.")],
    model: Annotated[str, typer.Option(help="Model to compare: fedmm (as configured), or a baseline.")] = CONFIGURED,
    out: Annotated[Path | None, typer.Option(help="Write the table and a figure here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(examining(run))
        found = compare_runs(runs, model)
        metrics = [read_metrics(run) for run in runs]
        epsilons = {view: [epsilon_text(_epsilon(own, view)) for own in metrics] for view in ("market", "release")}
    table = comparison_table(found)
    if out is not None:
        write_parquet(out / TABLE, table)
        write_json(out / "comparison.json", records_of(table))
        write_drawing(out, draw_comparison(table))
    if as_json:
        say(json.dumps(records_of(table)))
        return
    _print_comparison(found, epsilons)
    if out is not None:
        say(f"\ntable and figure  {out}")


def _print_comparison(found: Sequence[Difference], epsilons: Mapping[str, Sequence[str]]) -> None:
    names = list(dict.fromkeys(row.run for row in found))
    by_place = {(row.run, row.market): row for row in found}
    table = Table("test AUC", *names)
    for market in dict.fromkeys(row.market for row in found):
        table.add_row(market, *(_cell(by_place.get((name, market))) for name in names))
    macro = [_macro(found, name, names[0]) for name in names]
    table.add_row("macro", *macro)
    for view, texts in epsilons.items():
        table.add_row(f"ε {view}", *texts)
    wide_console().print(table)
    if any(row.difference is not None and not row.paired for row in found):
        say("~ not paired: other candidates; the interval is Welch's t over seeds, and there is none with one seed")
    say("macro: over the markets that all runs have")


def _cell(row: Difference | None) -> str:
    if row is None:
        return "–"
    if row.difference is None:
        return figure_text(row.auc)
    return f"{figure_text(row.auc)}  {'' if row.paired else '~'}{difference_text(vars(row.difference))}"


def _macro(found: Sequence[Difference], name: str, first: str) -> str:
    runs = {row.run for row in found}
    shared = set.intersection(*({row.market for row in found if row.run == run} for run in runs))

    def mean(run: str) -> float:
        own = [row.auc for row in found if row.run == run and row.market in shared]
        return float(np.mean([np.nan if auc is None else auc for auc in own])) if own else np.nan

    difference = mean(name) - mean(first)
    told = name != first and np.isfinite(difference)
    return figure_text(mean(name)) + (f"  {difference:+.3f}" if told else "")


def _epsilon(metrics: Mapping[str, Any], view: str) -> float | None:
    return worst(found[view]["epsilon"] for found in metrics["privacy"]["markets"].values())


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Runs and sweeps directly in a folder, oldest first.

    Raises:
        RunDirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder}: no such folder; runs go to ./runs unless --out says otherwise")
    found = [_described(path) for path in folder.iterdir() if (path / CONFIG_FILE).is_file() or is_sweep(path)]
    return sorted(found, key=lambda row: (row["created"], row["name"]))


def _described(path: Path) -> dict[str, Any]:
    """One that cannot be read is listed with why, and hides no other."""
    try:
        with examining(path):
            return _describe(path)
    except InputError as error:
        why = str(error).removeprefix(f"{path}/").removeprefix(f"{path}: ")
        return {"name": path.name, "created": "", "status": f"unreadable: {why}"}


def _describe(path: Path) -> dict[str, Any]:
    if is_sweep(path):
        cells = sorted(path.glob(f"cells/*/{CONFIG_FILE}"))
        finished = sum((cell.parent / DONE_FILE).exists() for cell in cells)
        created = min((_created(cell.parent) for cell in cells), default="")
        return {"name": path.name, "created": created, "status": f"sweep, {finished} of {len(cells)} cells begun"}
    config = read_foreign_config(path)
    row: dict[str, Any] = {
        "name": path.name,
        "created": _created(path),
        "status": "unfinished",
        "markets": config.data.n_markets,
        "seeds": len(config.seed),
        "protect": config.privacy.protect if config.privacy.epsilon is not None else "-",
    }
    if not (path / METRICS_FILE).is_file():
        return row
    metrics = read_metrics(path)
    made = [name for name, there in (("attacked", read_attacks(path)), ("audited", read_audits(path))) if there]
    return row | {
        "status": ", ".join(["finished", *made]),
        "markets": len(metrics["markets"]),
        "auc": metrics["macro"]["auc"],
        "epsilon_market": _epsilon(metrics, "market"),
        "epsilon_release": _epsilon(metrics, "release"),
    }


def _created(path: Path) -> str:
    try:
        return str(read_environment(path)["created"])
    except (InputError, KeyError):
        return ""


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run directories.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    found = list_runs(folder)
    if as_json:
        say(json.dumps(found))
        return
    table = Table("name", "created", "status", "markets", "seeds", "protect", "macro AUC", "ε market", "ε release")
    for row in found:
        auc = figure_text(row["auc"]) if "auc" in row else ""
        epsilons = (epsilon_text(row[key]) if key in row else "" for key in ("epsilon_market", "epsilon_release"))
        cells = (str(row.get(key, "")) for key in ("name", "created", "status", "markets", "seeds", "protect"))
        table.add_row(*cells, auc, *epsilons)
    wide_console().print(table)
