"""Run the attacks on a finished run and keep what they find in ``attacks/`` of its directory.

``attacks.json`` holds every result, ``results.parquet`` the same as a table, ``scores/`` the score of every target of
the membership attacks; figures stand beside them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from attacks.membership.shadow import Progress
from attacks.membership.units import UNITS, Unit
from attacks.retraining.pipelines import recipe_by_name
from experiments.assessment.attacked import Attacked
from experiments.assessment.record import Attack
from experiments.assessment.records import ATTACKS, DEFAULT_SHADOWS
from experiments.assessment.statements import Results, add_statement, attacks_file, make_statement
from experiments.presentation.steps import track
from experiments.runs.configuration import readers_data
from experiments.runs.executors import executor_of
from experiments.runs.markets import choose_market
from fedmm_secure.config import DataConfig
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.storage.files import Store, write_parquet
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_foreign_config, read_metrics
from privacy.aggregation.identities import Identity


def attack_run(
    run: Path,
    *,
    attacks: Sequence[str] | None = None,
    market: str | None = None,
    targets: Sequence[str] = (CONFIGURED,),
    units: Sequence[Unit] = UNITS,
    n_shadows: int = DEFAULT_SHADOWS,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress = lambda done, total: None,
    identity: Identity | None = None,
    data: Path | DataConfig | None = None,
) -> Results:
    """Attack a run; results are written beside those of attacks made before, as a statement about the run as it is now.

    Args:
        run: a finished run's directory.
        attacks: names out of ``ATTACKS``; by default all.
        market: the market under attack; by default the one with the fewest users.
        targets: models for membership inference.
        units: what membership is asked about.
        n_shadows: shadow pipelines.
        workers: processes; by default as configured.
        cluster: address of the cluster that trains shadow pipelines; None trains them in processes here.
        progress: told of pipelines done.
        identity: signs what is found; None leaves it unsigned.
        data: folder of the markets' files, where the run read any, or all that says where they are; the run's own word
            for it is not taken.

    Returns:
        All results that the run directory now holds.

    Raises:
        ConfigError: unknown attack, market or target.
        RunDirectoryError: not a finished run.
    """
    config, metrics = read_foreign_config(run), read_metrics(run)
    config = config.model_copy(update={"workers": workers or min(config.workers, os.cpu_count() or 1)})
    market = choose_market(market, {name: values["n_users"] for name, values in metrics["markets"].items()})
    chosen = _chosen(attacks)
    for target in targets:
        try:
            recipe_by_name(config, target)
        except ValueError as error:
            raise ConfigError(f"--target {error}") from error
    closed = ClosedRun(run, market)
    closed.refuse_other_sizes(config)
    _ = closed.records  # views are read from them
    markets = prepare_markets(data if isinstance(data, DataConfig) else readers_data(config.data, data))
    settings = {"market": market, "targets": list(targets), "units": list(units), "shadows": n_shadows}
    found: Results = {}
    made: Results = {}
    # who signs answers for every shadow: those that lie in the directory are not taken for trained
    with nullcontext(str(RunDirectory(run).attacks)) if identity is None else TemporaryDirectory() as kept:
        attacked = Attacked(
            run,
            config,
            metrics,
            markets,
            market,
            tuple(targets),
            tuple(units),
            n_shadows,
            Store(Path(kept)),
            progress,
            executor_of(config.workers, cluster),
        )
        for attack in track("attacks", chosen):
            made[attack.name] = attack.make(attacked)
            found = add_statement(run, attacks_file(run), make_statement(run, "attack", settings, made, identity))
    _write_table(RunDirectory(run).attacks / "results.parquet", found)
    for name, attack in ATTACKS.items():
        if found.get(name):
            attack.draw(RunDirectory(run).attacks / name, found[name])
    return found


def _chosen(names: Sequence[str] | None) -> list[Attack]:
    """The attacks of ``--attack``; by default all."""
    for name in names or ():
        if name not in ATTACKS:
            raise ConfigError(f"--attack {name}: choose from {', '.join(ATTACKS)}")
    return list(ATTACKS.values()) if names is None else [ATTACKS[name] for name in names]


def _write_table(path: Path, found: Results) -> None:
    rows = [{"kind": kind, **result} for kind, results in found.items() for result in results]
    write_parquet(path, pd.json_normalize(rows, sep="."), "zstd")
