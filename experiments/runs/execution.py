"""Run the pipeline in a run directory, logged and locked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from experiments.runs.tracking import check_trackers, open_trackers
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.devices import chosen_device
from fedmm_secure.pipeline import Listener, run_pipeline, tell_all
from fedmm_secure.results.metrics import RunMetrics
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.cache import Cache
from privacy.aggregation.identities import Identity


def execute(
    directory: Path,
    config: Config,
    *listeners: Listener,
    resume: bool,
    cache: Cache | None = None,
    track: Sequence[str] = (),
    signer: Identity | None = None,
    quickstart: bool = False,
) -> RunMetrics:
    """Run in a new directory, or go on with a run; data is checked before anything is written.

    Args:
        directory: the run directory.
        config: the configuration; that of the run, where it is resumed.
        listeners: told of progress as (event, fields), after the log.
        resume: go on with the run in ``directory``.
        cache: what runs share.
        track: trackers that follow the run, by name.
        signer: who signs the ledgers' last lines.
        quickstart: whether a new run is part of a quickstart.

    Raises:
        InputError: the data, the configuration or the directory cannot be used.
    """
    check_trackers(track)
    chosen_device(config.device)
    prepared = prepare_markets(config.data)
    if not resume:
        run_directory.create(directory, config, quickstart=quickstart)
    with run_directory.locked(directory), ExitStack() as stack:
        trackers = open_trackers(track, directory, stack)
        everyone: tuple[Listener, ...] = (run_directory.Log(directory), *listeners, *trackers)
        return run_pipeline(config, prepared, directory, tell_all(everyone), cache, signer)
