"""A grid: which configurations and seeds a sweep runs."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from attacks.membership.units import UNITS, Unit
from experiments.assessment.records import ATTACKS, DEFAULT_SHADOWS
from experiments.runs.configuration import SYNTHETIC, locate, resolve, shipped
from fedmm_secure.config import Config, Section, configuration_hash, load_yaml
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.errors import ConfigError

GRIDS_FOLDER, MARKETS = "grids", "markets"
METHOD = "method"  # axis of the blocks' names
MOST_CELLS = 100_000
MOST_AXES = 32
MOST_READ = 500  # cells of somebody else's sweep, for each of which a configuration is made
_SHORT = 40


class AttackPlan(Section):
    """Attacks on the runs of a sweep."""

    names: tuple[str, ...] = Field(("membership",), description="attacks, as in fedmm attack --attack")
    market: str | None = Field(None, description="market under attack; null: the smallest")
    targets: tuple[str, ...] = (CONFIGURED,)
    units: tuple[Unit, ...] = UNITS
    shadows: int = Field(DEFAULT_SHADOWS, ge=4, description="shadow pipelines")
    seeds: tuple[int, ...] | None = Field(None, description="attack the runs of these seeds alone; null: all")

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ATTACKS:
                raise ValueError(f"unknown attack {name}; choose from {', '.join(ATTACKS)}")
        return names


class GridBlock(Section):
    """Cells that differ in their axes alone: the product of the axes' values."""

    method: str | None = Field(
        None, description="what its cells are: with a name for every block, a page has tables of methods by markets"
    )
    model: str = Field(
        CONFIGURED, description="which model of its cells the method is; the configured one brings baselines"
    )
    against: str | None = Field(
        None, description="method that differences are from; by default that of the first block"
    )
    base: str | None = Field(None, description="instead of the grid's base")
    set: dict[str, Any] = Field(default_factory=dict, description="keys and values of every cell of the block")
    axes: dict[str, list[Any]] = Field(default_factory=dict, description="by key, the values that cells take")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, values in self.axes.items():
            if not values:
                raise ValueError(f"axes: {key} has no values")
        if METHOD in self.axes or METHOD in self.set:
            raise ValueError("method is not an axis; it is the name of a block")
        if "seed" in self.axes or "seed" in self.set:
            raise ValueError("seed is not an axis; use the grid's seeds")
        return self


class SweepGrid(Section):
    """What a grid file says; a key ``markets`` of ``set`` and ``axes`` names the markets that take part."""

    title: str | None = Field(None, description="what the sweep asks")
    base: str = Field(SYNTHETIC, description="shipped configuration or YAML file that cells start from")
    set: dict[str, Any] = Field(default_factory=dict, description="keys and values of every cell")
    blocks: tuple[GridBlock, ...] = Field((GridBlock(),), min_length=1, description="the sweep is all blocks together")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one run, with a budget of its own, for each")
    attacks: AttackPlan | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: the same seed twice")
        if len({block.method is None for block in self.blocks}) > 1:
            raise ValueError("blocks: method: name all blocks or none")
        names = {block.method for block in self.blocks}
        if None in names and any(block.model != CONFIGURED for block in self.blocks):
            raise ValueError("blocks: model: goes with method, the name of the block")
        for block in self.blocks:
            if block.against is not None and block.against not in names:
                raise ValueError(f"blocks: against: no method {block.against}")
        if len(self.axes) > MOST_AXES:
            raise ValueError(f"more than {MOST_AXES} axes")
        return self

    @property
    def axes(self) -> list[str]:
        """Keys that cells differ in, in order of appearance."""
        named = [METHOD] if self.blocks[0].method is not None else []
        return named + list(dict.fromkeys(key for block in self.blocks for key in block.axes))


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its directory; changes with anything that its results depend on.
        axes: value of every axis, that of the base where its block does not vary it.
        seed: of the run.
        config: what is run.
        attacks: what is attacked afterwards.
    """

    name: str
    axes: Mapping[str, Any]
    seed: int
    config: Config
    attacks: AttackPlan | None


def shipped_grids() -> list[str]:
    """Names of the grids that come with the package."""
    return shipped(GRIDS_FOLDER)


def load_grid(name_or_file: str) -> SweepGrid:
    """A validated grid.

    Raises:
        ConfigError: no such grid, or one line that names the key at fault.
    """
    path = locate(name_or_file, GRIDS_FOLDER, "grid")
    return grid_from_data(load_yaml(path), source=str(path))


def grid_from_data(data: Any, *, source: str) -> SweepGrid:
    """Validate a mapping; raises ``ConfigError``."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a mapping of keys to values is expected, not {type(data).__name__}")
    try:
        return SweepGrid.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, SweepGrid.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(SweepGrid.model_fields)}"
            raise ConfigError(f"{source}: {key}: unknown key; {hint}") from error
        message = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {key}: {message}" if key else f"{source}: {message}") from error


def expand(
    grid: SweepGrid,
    overrides: Sequence[str] = (),
    bases: Mapping[str, Any] | None = None,
    there: Collection[str] | None = None,
) -> list[Cell]:
    """The cells of a grid, in its order; configurations that are equal appear once.

    Args:
        grid: what to run.
        overrides: ``key=value`` for every cell, stronger than the grid.
        bases: configurations by the name of their file; where they are given, no file that the grid names is opened.
        there: names of cells; where they are given, no other is made, which of a large grid takes minutes.

    Raises:
        ConfigError: a cell's configuration is not valid; names the cell.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        for axis in grid.axes:
            if f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
                raise ConfigError(
                    f"--set {override}: {axis} is an axis of the grid; its cells would not be what they say"
                )
    if planned_cells(grid) > MOST_CELLS:
        raise ConfigError(f"the grid has more than {MOST_CELLS} cells")
    labels = None if there is None else {name.rpartition("_")[0] for name in there}
    cells: dict[str, Cell] = {}
    for block in grid.blocks:
        for point, seed in product(_points(block), grid.seeds):
            if labels is not None and _label(grid.axes, point, seed) not in labels:
                continue
            cell = _cell(grid, block, point, seed, overrides, bases)
            cells.setdefault(cell.name, cell)
    return [cell for cell in cells.values() if there is None or cell.name in there]


def planned_cells(grid: SweepGrid) -> int:
    """How many cells a grid asks for; those that are equal count each."""
    return sum(math.prod(map(len, block.axes.values())) for block in grid.blocks) * len(grid.seeds)


def _points(block: GridBlock) -> list[dict[str, Any]]:
    """All combinations of the values of its axes, the last axis by name moving first."""
    names = sorted(block.axes)
    named = {} if block.method is None else {METHOD: block.method}
    return [{**named, **dict(zip(names, values, strict=True))} for values in product(*(block.axes[n] for n in names))]


def _cell(
    grid: SweepGrid,
    block: GridBlock,
    point: Mapping[str, Any],
    seed: int,
    overrides: Sequence[str],
    bases: Mapping[str, Any] | None,
) -> Cell:
    label = _label(grid.axes, point, seed)
    values = {**grid.set, **block.set, **point, "seed": seed}
    markets = values.pop(MARKETS, None)
    values.pop(METHOD, None)
    try:
        config = resolve(block.base or grid.base, overrides, values, bases)
        config = config if markets is None else _with_markets(config, markets)
    except ConfigError as error:
        raise ConfigError(f"cell {label}: {error}") from error
    if config.seed != (seed,):
        raise ConfigError("--set seed: a sweep takes its seeds from the grid, or from --seed")
    attacks = grid.attacks
    if attacks is not None and attacks.seeds is not None and seed not in attacks.seeds:
        attacks = None
    axes = {key: point[key] if key in point else _value(config, key) for key in grid.axes}
    return Cell(f"{label}_{_hash(config)}", axes, seed, config, attacks)


def _value(config: Config, key: str) -> Any:
    """What a cell has where its block does not vary an axis: the value that its base or ``set`` gave it."""
    if key == MARKETS:
        return sorted(config.data.markets)
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _with_markets(config: Config, names: Sequence[str]) -> Config:
    unknown = sorted(set(names) - set(config.data.markets))
    if unknown:
        known = ", ".join(config.data.markets) or "those of data.synthetic, which are chosen by their number"
        raise ConfigError(f"markets: no market {unknown[0]}; the markets are {known}")
    data = config.model_dump(mode="python")
    data["data"]["markets"] = {name: data["data"]["markets"][name] for name in names}
    return Config.model_validate(data)


def _hash(config: Config) -> str:
    text = yaml.safe_dump(config.data.model_dump(mode="json", exclude={"root"})).encode()
    return hashlib.sha256(configuration_hash(config) + text).hexdigest()[:8]


def _label(axes: Sequence[str], point: Mapping[str, Any], seed: int) -> str:
    last = [key.split(".")[-1] for key in axes]
    parts = []
    for key, short in zip(axes, last, strict=True):
        if key in point:
            name = short if last.count(short) == 1 else key
            parts.append(f"{name}-{axis_text(point[key])}"[:_SHORT])
    return re.sub(r"[^\w.+-]", "-", "_".join([*parts, f"seed-{seed}"]))


def axis_text(value: Any) -> str:
    """A value of an axis as names and tables show it."""
    if isinstance(value, list | tuple):
        return "+".join(axis_text(part) for part in value)
    return "none" if value is None else str(value)
