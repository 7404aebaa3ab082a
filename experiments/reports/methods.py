"""Tables of a sweep whose blocks are methods: methods by markets, what they cost, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.presentation.console import command_text
from experiments.presentation.text import difference_text, figure_text
from experiments.runs.comparison import predictions_of
from experiments.sweep.grid import METHOD, Cell, axis_text
from experiments.sweep.scheduler import Sweep
from experiments.sweep.summary import accuracy, markets_of, worst_epsilon
from experiments.sweep.table import MACRO
from fedmm_secure.config.choices import CONFIGURED, NOISY_BASELINES
from fedmm_secure.ctr.metrics import Interval, PairedDifference, auc_difference, holm, ranked_auc, seed_interval
from fedmm_secure.data.market import FloatArray
from fedmm_secure.errors import ConfigError
from fedmm_secure.storage.run_directory import read_metrics
from privacy.accounting.text import epsilon_text
from privacy.files import PUBLIC_MODE, write_atomic
from privacy.foreign import MAX_TEXT_BYTES, read_bytes

TABLES = "tables.md"
_FIRST, _LAST = "<!-- tables of: {} -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class MethodRow:
    """One method on the markets.

    Attributes:
        name: of the block, or of a baseline in one of them.
        runs: how many.
        auc: mean test AUC by market.
        macro: mean over markets, with Student's t interval over runs; None where noise leaves no figure.
        epsilon: of one run, by view, worst market and run, as text.
        traffic: bytes a round, up from all markets and down to them, and rounds, each the mean over runs; None where
            nothing travels.
        against: the method that differences are from.
        differences: by market and of the mean, over users and trainings, of a single pair of runs over users alone;
            None for that itself, or where candidates differ.
        certain: markets where there is a difference for other users and other trainings, at a level of 5 % after Holm's
            correction over markets; none of a single pair of runs.
    """

    name: str
    runs: int
    auc: Mapping[str, float]
    macro: Interval | None
    epsilon: Mapping[str, str]
    traffic: Mapping[str, float] | None
    against: str
    differences: Mapping[str, PairedDifference] | None
    certain: frozenset[str]


@dataclass(frozen=True)
class MethodTable:
    """All methods at one point of the other axes; rows in the grid's order, each block before its baselines."""

    point: Mapping[str, str]
    markets: Sequence[str]
    rows: Sequence[MethodRow]

    @property
    def title(self) -> str:
        """Axis and value of the point, one after the other."""
        return ", ".join(f"{axis} {value}" for axis, value in self.point.items())


@dataclass(frozen=True)
class _Named:
    """A model in the cells of one block at one point, and what it is compared with."""

    name: str
    model: str
    cells: Sequence[Cell]
    against: str


def method_tables(sweep: Sweep, frame: pd.DataFrame) -> list[MethodTable]:
    """A table for each point of the axes beside the method; none where blocks have no names."""
    if METHOD not in sweep.grid.axes:
        return []
    others = [axis for axis in sweep.grid.axes if axis != METHOD]
    points: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sweep.finished():
        points.setdefault(tuple(axis_text(cell.axes[axis]) for axis in others), []).append(cell)
    tables = []
    for key, cells in points.items():
        point = {axis: value for axis, value in zip(others, key, strict=True) if len(points) > 1}
        named = _named(sweep, cells)
        rows = [_row(sweep, frame, method, named.get(method.against)) for method in named.values()]
        tables.append(MethodTable(point, markets_of(frame[frame["cell"].isin([c.name for c in cells])]), rows))
    return tables


def _named(sweep: Sweep, cells: Sequence[Cell]) -> dict[str, _Named]:
    """The model of each block, and where that is the configured one its baselines; what is there already stays."""
    blocks: dict[str, list[Cell]] = {}
    for cell in cells:
        blocks.setdefault(str(cell.axes[METHOD]), []).append(cell)
    asked = {str(block.method): block for block in sweep.grid.blocks}
    found: dict[str, _Named] = {}
    for name, own in blocks.items():
        block = asked[name]
        against = block.against or str(sweep.grid.blocks[0].method)
        found[name] = _Named(name, block.model, own, against)
        for model in own[0].config.ctr.baselines if block.model == CONFIGURED else ():
            found.setdefault(model, _Named(model, model, own, against))
    return found


def _row(sweep: Sweep, frame: pd.DataFrame, method: _Named, other: _Named | None) -> MethodRow:
    rows = frame[frame["cell"].isin([cell.name for cell in method.cells])]
    by_market = {m: accuracy(rows, model=method.model, market=m)["value"].tolist() for m in markets_of(rows)}
    macro = accuracy(rows, model=method.model, market=MACRO)["value"].tolist()
    differences = None if other is None or method == other else _differences(sweep, method, other)
    return MethodRow(
        name=method.name,
        runs=len(method.cells),
        auc={market: float(np.mean(values)) for market, values in by_market.items() if values},
        macro=seed_interval(macro) if macro else None,
        epsilon=_epsilon(rows, method),
        traffic=_traffic(rows, method.model),
        against=method.against,
        differences=differences,
        certain=_certain(differences or {}),
    )


def _certain(differences: Mapping[str, PairedDifference]) -> frozenset[str]:
    """Markets with a difference after correction, where other trainings are in it."""
    markets = [market for market, found in differences.items() if market != MACRO and found.trainings > 1]
    corrected = holm([differences[market].p for market in markets])
    return frozenset(market for market, p in zip(markets, corrected, strict=True) if p < 0.05)


def _epsilon(rows: pd.DataFrame, method: _Named) -> dict[str, str]:
    if method.model in NOISY_BASELINES:  # they have a budget of their own, as large as the run's
        budget = epsilon_text(max(cell.config.privacy.epsilon or np.inf for cell in method.cells))
        return {"market": budget, "release": budget}
    if method.model != CONFIGURED:
        return {"market": epsilon_text(np.inf), "release": epsilon_text(np.inf)}
    return {view: epsilon_text(worst_epsilon(rows, view)) for view in ("market", "release")}


def _traffic(rows: pd.DataFrame, model: str) -> dict[str, float] | None:
    """Mean over runs: rounds, and bytes a round, those of sums before the first round among them in equal parts."""
    mine = rows["model"].isna() & rows["market"].isna() if model == CONFIGURED else rows["model"] == model
    means = rows[mine & rows["metric"].isin(["bytes_up", "bytes_down", "rounds"])].groupby("metric")["value"].mean()
    if not len(means) or not means["rounds"]:
        return None
    return {"rounds": float(means["rounds"])} | {
        key: float(means[f"bytes_{key}"] / means["rounds"]) for key in ("up", "down")
    }


def _differences(sweep: Sweep, method: _Named, against: _Named) -> dict[str, PairedDifference] | None:
    """By market, and of the mean over markets, whose users are different people: squares of errors add up."""
    pairs = [(own, other) for own in method.cells for other in against.cells if own.seed == other.seed]
    if not pairs or not _same_candidates(sweep, [cell for pair in pairs for cell in pair]):
        return None
    over_users: dict[str, PairedDifference] = {}
    by_pair: dict[str, FloatArray] = {}
    for market in read_metrics(sweep.path(pairs[0][0]))["markets"]:
        ours, theirs, trained = [], [], []
        for own, other in pairs:
            candidates, values = predictions_of(sweep.path(own), market, method.model)
            others = predictions_of(sweep.path(other), market, against.model)[1]
            aucs = [np.mean([ranked_auc(candidates.label, scores) for scores in model]) for model in (values, others)]
            trained.append(aucs[0] - aucs[1])
            ours += values
            theirs += others
        over_users[market], by_pair[market] = auc_difference(candidates, ours, theirs), np.array(trained)
    errors = [difference.error for difference in over_users.values()]
    mean = float(np.mean([difference.mean for difference in over_users.values()]))
    by_pair[MACRO] = np.mean(list(by_pair.values()), axis=0)
    over_users[MACRO] = PairedDifference(mean, float(np.sqrt(np.square(errors).sum()) / len(errors)))
    if len(pairs) < 2:
        return over_users
    return {market: found.over_trainings(by_pair[market].tolist()) for market, found in over_users.items()}


def _same_candidates(sweep: Sweep, cells: Sequence[Cell]) -> bool:
    known = [
        {market: values.get("candidates") for market, values in read_metrics(sweep.path(cell))["markets"].items()}
        for cell in cells
    ]
    return all(found == known[0] for found in known) and None not in known[0].values()


def markdown(tables: Sequence[MethodTable]) -> str:
    """The tables for a page of the documentation: accuracy and cost, then differences."""
    return "\n\n".join(part for table in tables for part in _parts(table)) + "\n"


def write_tables(directory: Path, title: str, tables: Sequence[MethodTable]) -> None:
    """Keep a sweep's tables as Markdown beside its page; none where its blocks are no methods."""
    if tables:
        text = f"{_FIRST.format(title)}\n{markdown(tables)}{_LAST}\n"
        write_atomic(directory / TABLES, text.encode(), mode=PUBLIC_MODE)


def put_tables(directory: Path, page: Path) -> None:
    """Put a sweep's tables into a Markdown page, in place of what is between the two marks of its title.

    Raises:
        ConfigError: there are no tables, or the page has no such marks.
    """
    file = directory / TABLES
    if not file.is_file():
        raise ConfigError(
            f"{file}: missing; {command_text('report', directory)} writes it where the grid's blocks have names"
        )
    tables = read_bytes(file, MAX_TEXT_BYTES, below=directory).decode("utf-8")
    first = tables.partition("\n")[0]
    text = read_bytes(page, MAX_TEXT_BYTES).decode("utf-8")
    before, found, rest = text.partition(first + "\n")
    _, ended, after = rest.partition(_LAST + "\n")
    if not found or not ended:
        raise ConfigError(
            f"{page}: has no place for the tables: write {first} and {_LAST}, each on a line, where they belong"
        )
    write_atomic(page, f"{before}{tables}{after}".encode(), mode=PUBLIC_MODE)


def _parts(table: MethodTable) -> list[str]:
    about = f", {table.title}" if table.title else ""
    head = [f"test AUC{about}", *table.markets, "macro", "ε market", "ε release", "rounds", "KiB up", "KiB down"]
    accurate = [[row.name, *_aucs(table, row), *_cost(row)] for row in table.rows]
    compared = [row for row in table.rows if row.differences is not None]
    parts = [_pipes(head, accurate)]
    if compared:
        head = [f"difference{about}", "from", *table.markets, "macro"]
        parts.append(_pipes(head, [[row.name, row.against, *_differing(table, row)] for row in compared]))
    return parts


def _aucs(table: MethodTable, row: MethodRow) -> list[str]:
    macro = "–" if row.macro is None else figure_text(row.macro.mean)
    if row.macro is not None and row.macro.low is not None:
        macro += f" [{row.macro.low:.3f}, {row.macro.high:.3f}]"
    return [*(figure_text(row.auc.get(market)) for market in table.markets), macro]


def _cost(row: MethodRow) -> list[str]:
    cost = ["–"] * 3
    if row.traffic is not None:
        cost = [f"{row.traffic['rounds']:.0f}", *(f"{row.traffic[way] / 1024:,.1f}" for way in ("up", "down"))]
    return [row.epsilon["market"], row.epsilon["release"], *cost]


def _differing(table: MethodTable, row: MethodRow) -> list[str]:
    known: Mapping[str, PairedDifference] = row.differences or {}
    texts = {market: difference_text(asdict(found.interval)) for market, found in known.items()}
    return [
        f"**{texts[market]}**" if market in row.certain else texts.get(market, "–")
        for market in (*table.markets, MACRO)
    ]


def _pipes(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cells_of(table: MethodTable, row: MethodRow) -> dict[str, list[str]]:
    """What a page shows of a row, as texts."""
    differing = [] if row.differences is None else [text.strip("*") for text in _differing(table, row)]
    return {"auc": _aucs(table, row), "cost": _cost(row), "differences": differing}
