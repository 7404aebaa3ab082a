"""What a sweep's table says: means over seeds, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from experiments.sweep.grid import METHOD
from experiments.sweep.scheduler import Sweep
from experiments.sweep.table import MACRO, collect
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.ctr.metrics import seed_interval
from privacy.accounting.text import epsilon_text


def grouped(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows by the values of some columns, as texts, in the table's order; all rows where there are no columns."""
    if not by:
        yield (), frame
        return
    for key, rows in frame.groupby(list(by), sort=False, dropna=False):
        yield tuple(value_text(part) for part in key), rows


def markets_of(frame: pd.DataFrame) -> list[str]:
    """Markets in a table, in its order."""
    return [str(market) for market in frame["market"].dropna().unique() if market != MACRO]


def value_text(value: object) -> str:
    """A value of an axis as the table holds it."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return "none" if value is None or value is pd.NA or value != value else str(value)


def over_seeds(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and Student's t interval over runs, in the table's order: ``by``, ``runs``, ``mean``, ``low``, ``high``.

    Bounds are NaN where one run gives none.
    """
    rows = []
    for key, values in frame.groupby(list(by), sort=False, dropna=False)["value"]:
        found = seed_interval(values.tolist())
        bounds = (math.nan if bound is None else bound for bound in (found.low, found.high))
        rows.append((*(key if isinstance(key, tuple) else (key,)), len(values), found.mean, *bounds))
    return pd.DataFrame(rows, columns=[*by, "runs", "mean", "low", "high"])


def as_methods(sweep: Sweep, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with each block's method in the place of its cells' own model, where the method is another model."""
    models = {block.method: block.model for block in sweep.grid.blocks if block.model != CONFIGURED}
    if not models:
        return frame
    method = frame[METHOD].map(models).astype("string")
    left = ~(method.notna() & (frame["model"] == CONFIGURED)).fillna(False)
    found = frame[left].copy()
    found.loc[(found["model"] == method[left]).fillna(False), "model"] = CONFIGURED
    return found


def accuracy(frame: pd.DataFrame, *, model: str = CONFIGURED, market: str = MACRO) -> pd.DataFrame:
    """The rows of test AUC of one model in one market."""
    wanted = (frame["metric"] == "auc") & (frame["model"] == model) & (frame["market"] == market) & frame["view"].isna()
    return frame[wanted]


def worst_epsilon(frame: pd.DataFrame, view: str) -> float:
    """Largest ε of a view over markets and runs."""
    found = frame.loc[(frame["metric"] == "epsilon") & (frame["view"] == view), "value"]
    return float(found.max()) if len(found) else math.nan


def macro_summary(sweep: Sweep, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row for each point: axes, ``runs``, macro ``auc``, ``low``, ``high``, ε as text.

    ``auc`` is None where no run has one, bounds where there is no interval.
    """
    frame = as_methods(sweep, collect(sweep) if frame is None else frame)
    axes = sweep.grid.axes
    rows: list[dict[str, Any]] = []
    for point, cells in grouped(frame, axes):
        values = accuracy(cells)["value"].tolist()
        interval = seed_interval(values) if values else None
        rows.append(
            {
                **dict(zip(axes, point, strict=True)),
                "runs": cells["cell"].nunique(),
                "auc": None if interval is None else interval.mean,
                "low": None if interval is None else interval.low,
                "high": None if interval is None else interval.high,
                "market": epsilon_text(worst_epsilon(cells, "market")),
                "release": epsilon_text(worst_epsilon(cells, "release")),
            }
        )
    return pd.DataFrame(rows, dtype=object)
