"""Curves of ``fedmm bench scale`` as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.benchmarks.scale import Curve
from experiments.presentation.drawing import LINES, MARKERS, PALETTE, QUIET, Drawing, styled, write_drawing

_MEGABYTE = 1e6


@styled
def draw_scale(path: Path, curves: Sequence[Curve]) -> None:
    """Seconds and memory of whole runs against size, both doubled along the axes; dotted: as much again for as much.

    Args:
        path: of the figure, without its ending.
        curves: of several axes.
    """
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = []
    for place, curve in enumerate(curves):
        grown = [point.size / curve.points[0].size for point in curve.points]
        costs = (
            (left, [point.seconds.value for point in curve.points], curve.last.value),
            (right, [point.memory.value / _MEGABYTE for point in curve.points], curve.memory.value),
        )
        for axes, values, exponent in costs:
            axes.plot(
                grown,
                values,
                color=PALETTE[place],
                marker=MARKERS[place],
                linestyle=LINES[place],
                label=f"{curve.what}: {exponent:.2f}",
            )
        columns = {"size": [point.size for point in curve.points], "seconds": costs[0][1], "megabytes": costs[1][1]}
        drawn.append(pd.DataFrame({"axis": curve.what, **columns}))
    everything = pd.concat(drawn, ignore_index=True)
    largest = max(point.size / curve.points[0].size for curve in curves for point in curve.points)
    for axes, name, unit in ((left, "seconds", "processor time, s"), (right, "megabytes", "most memory, MB")):
        least = float(everything[name].min())
        axes.plot([1.0, largest], [least, least * largest], color=QUIET, linestyle=":", label="in proportion: 1")
        axes.set(xscale="log", yscale="log", xlabel="size, times the smallest", ylabel=unit)
        axes.legend(frameon=False, fontsize=8, title="exponent, last doubling")
    title = "Whole runs: time and memory as sizes double"
    write_drawing(path.parent, Drawing(path.name, title, figure, everything))
