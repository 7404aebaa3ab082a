"""The quickstart: a private run on synthetic markets, the same without DP, an attack on it, and verification.

Its users are generated and nobody's, so a run of the same rows without DP costs no person anything. On rows of people
it would, and nothing here is ever done to them: ``fedmm run CONFIG`` runs what the configuration says, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attacks.membership.shadow import Progress
from experiments.assessment.attack import attack_run
from experiments.reports.screen import Finished
from experiments.runs.configuration import QUICKSTART, resolve
from experiments.runs.execution import execute
from experiments.verification.run import examine_run
from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.pipeline import Listener
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_config
from privacy.aggregation.identities import Identity

WITHOUT_DP = ("privacy={}", "ctr={baselines: []}")
N_SHADOWS = 8


def run_quickstart(
    directory: Path,
    config: Config,
    listener: Listener,
    *,
    shadows: Progress,
    resume: bool = False,
    track: Sequence[str] = (),
    signer: Identity | None = None,
) -> Finished:
    """Run all of it; the run without DP goes beside ``directory``, which it names in ``…-without-dp``.

    Args:
        directory: of the private run.
        config: the quickstart's, as changed by the user; that of the run, where it is resumed.
        listener: told of progress of both runs.
        shadows: told of shadow pipelines done.
        resume: go on with the quickstart in ``directory``; what is finished of it is not done again.
        track: trackers that follow the private run.
        signer: signs its ledgers and the attack's results.

    Raises:
        ConfigError: the data are not synthetic.
        RunDirectoryError: one of the directories is taken.
    """
    if config.data.synthetic is None:
        raise ConfigError("the quickstart is about synthetic markets: name a configuration to run others")
    beside = directory.with_name(f"{directory.name}-without-dp")
    if beside.exists() and not resume:
        raise RunDirectoryError(f"{beside}: is there already, and the run without DP goes there; choose another --out")
    bare, begun = plain(config), RunDirectory(beside).config.is_file()
    if (begun and read_config(beside) != bare) or (not begun and beside.exists() and any(beside.iterdir())):
        raise RunDirectoryError(f"{beside}: is not the run without DP of this quickstart; move it away, then resume")
    metrics = execute(directory, config, listener, resume=resume, track=track, signer=signer, quickstart=True)
    without_dp, remarks = None, []
    if config.privacy.epsilon is not None:
        without_dp = execute(beside, bare, _named(listener, "without DP"), resume=begun)
        remarks = [f"without DP: {beside}, of the same users, who are generated and nobody's"]
    attacks = attack_run(
        directory,
        attacks=["membership"],
        units=["user"],
        n_shadows=N_SHADOWS,
        progress=shadows,
        identity=signer,
    )
    return Finished(directory, config, metrics, examine_run(directory), without_dp, attacks, remarks)


def _named(listener: Listener, run: str) -> Listener:
    """Tells of a run as of one among several."""
    return lambda event, fields: listener(event, {**fields, "run": run})


def is_quickstart(directory: Path) -> bool:
    """Whether a run that has begun is part of a quickstart."""
    layout = RunDirectory(directory)
    return layout.config.is_file() and layout.quickstart.is_file()


def plain(config: Config) -> Config:
    """The same data and federation, with neither budget nor noise, and the default CTR model."""
    bare = resolve(QUICKSTART, WITHOUT_DP)
    changed = {"privacy": bare.privacy, "ctr": bare.ctr, "embedding": bare.embedding}
    return config.model_copy(update=changed)
