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
from privacy.aggregation.identities import Identity

WITHOUT_DP = ("privacy={}", "ctr={baselines: []}")
N_SHADOWS = 8


def run_quickstart(
    directory: Path,
    config: Config,
    listener: Listener,
    *,
    shadows: Progress,
    track: Sequence[str] = (),
    signer: Identity | None = None,
) -> Finished:
    """Run all of it; the run without DP goes beside ``directory``, which it names in ``…-without-dp``.

    Args:
        directory: of the private run.
        config: the quickstart's, as changed by the user.
        listener: told of progress of both runs.
        shadows: told of shadow pipelines done.
        track: trackers that follow the private run.
        signer: signs its ledgers and the attack's results.

    Raises:
        ConfigError: the data are not synthetic.
        RunDirectoryError: one of the directories is taken.
    """
    if config.data.synthetic is None:
        raise ConfigError("the quickstart is about synthetic markets: name a configuration to run others")
    beside = directory.with_name(f"{directory.name}-without-dp")
    if beside.exists():
        raise RunDirectoryError(f"{beside}: is there already, and the run without DP goes there; choose another --out")
    metrics = execute(directory, config, listener, resume=False, track=track, signer=signer)
    without_dp, remarks = None, []
    if config.privacy.epsilon is not None:
        without_dp = execute(beside, plain(config), listener, resume=False)
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


def plain(config: Config) -> Config:
    """The same data and federation, with neither budget nor noise, and the default CTR model."""
    bare = resolve(QUICKSTART, WITHOUT_DP)
    changed = {"privacy": bare.privacy, "ctr": bare.ctr, "embedding": bare.embedding}
    return config.model_copy(update=changed)
