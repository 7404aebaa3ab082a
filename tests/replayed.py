"""A run that an auditor may replay: opened, its coins tossed, and gone on with."""

from dataclasses import asdict
from pathlib import Path

from fedmm_secure.config.audit import AuditConfig, CardConfig
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.coins import CoinsAwaitedError, hand_in
from fedmm_secure.federation.tosses import asked_tosses, write_answers
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.identities import Identity
from tests.conftest import tiny
from tests.released import PRIVATE


def replayable(auditor: Identity, **sections):
    """Every stage that draws noise, in a few seconds."""
    privacy = {
        "epsilon": 8.0,
        "protect": "release",
        "ctr": {"steps": 4},
        "quantizer": {"steps_per_round": 1},
        "pseudo_users": 50,
        "user_codes_epsilon": 2.0,
        "shares": {"evaluation": 0.1},
    }
    settings = tiny(
        **{
            "data": {"synthetic": {"markets": 3, "users": 60, "items": 30, "mean_interactions": 8}},
            "privacy": privacy,
            "embedding": PRIVATE,
            "ctr": {"baselines": ["popularity"]},
            **sections,
        }
    )
    audit = AuditConfig(replay=CardConfig(**asdict(auditor.card)), canaries=100, nonce="ab" * 32)
    return settings.model_copy(update={"audit": audit})


def opened(settings, directory: Path) -> None:
    """A run as it stands when it awaits its coins."""
    run_directory.create(directory, settings)
    try:
        run_pipeline(settings, prepare_markets(settings.data), directory)
    except CoinsAwaitedError:
        return
    raise AssertionError("it went on without coins")


def tossed(directory: Path, auditor: Identity) -> None:
    """Hand in the auditor's coins."""
    answers = directory.parent / f"{directory.name}-coins.json"
    write_answers(answers, auditor, asked_tosses(directory, auditor))
    hand_in(answers, RunDirectory(directory).coins)


def gone_on(settings, directory: Path) -> None:
    """The rest of the run."""
    run_pipeline(settings, prepare_markets(settings.data), directory)
