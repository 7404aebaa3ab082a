"""A small run that publishes everything, signed with a key from outside: one for a test session, and never changed."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.conftest import tiny

if TYPE_CHECKING:  # a plugin, which the process that hands out the tests imports too
    from privacy.aggregation.identities import Identity

RELEASE = {
    "epsilon": 8.0,
    "protect": "release",
    "ctr": {"steps": 10},
    "quantizer": {"steps_per_round": 1},
    "contribution": {"reference_date": "2022-01-01"},
}
PRIVATE = {"kind": "dp-svd", "private": {"dim": 4, "max_items": 20}}
BASELINES = {"baselines": ["popularity", "noisy-popularity", "noisy-recent-popularity"]}


def release_configuration(**privacy):
    """Everything released, in seconds."""
    return tiny(privacy={**RELEASE, **privacy}, embedding=PRIVATE, ctr=BASELINES)


def run_release(directory: Path, settings, signer: "Identity | None" = None):
    """The metrics of a new run, on rows that are taken for somebody's."""
    from fedmm_secure.data.prepare import prepare_markets
    from fedmm_secure.pipeline import run_pipeline
    from fedmm_secure.storage import run_directory
    from tests.people import of_people

    markets = prepare_markets(settings.data)
    settings = of_people(settings)
    account = directory.parent / "privacy.account"  # beside it, wherever the session's other accounts are
    settings = settings.model_copy(update={"privacy": settings.privacy.model_copy(update={"account": account})})
    run_directory.create(directory, settings)
    return run_pipeline(settings, markets, directory, signer=signer)


def signers_card(run: Path) -> Path:
    """Card of who signed the session's run."""
    from privacy.aggregation.identities import CARD_FILE

    return run.parent / "auditor" / CARD_FILE


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` has filled, once for all processes of the test session: it is read alone."""
    base = factory.getbasetemp()
    return filled_once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name, make)


def filled_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, filled by ``make`` where no process has done so before."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            make(folder)
            (folder / "done").touch()
    return folder


def _released(folder: Path) -> None:
    from privacy.aggregation.identities import Identity

    auditor = Identity.generate("auditor")
    auditor.save(folder / "auditor")
    run_release(folder / "run", release_configuration(user_codes_epsilon=2.0), auditor)


@pytest.fixture(scope="session")
def released_run(tmp_path_factory) -> Path:
    """Directory of the session's run; the processes of a session share it."""
    return made_once(tmp_path_factory, "released", _released) / "run"


HEAD = {"trees": 2, "depth": 2, "shares": [0.3, 1.0]}


def headed_configuration():
    """Without a budget, a head of all markets."""
    return tiny(head=HEAD, federation={"rounds": 1}, ctr={"baselines": []})


def _headed(folder: Path) -> None:
    from fedmm_secure.data.prepare import prepare_markets
    from fedmm_secure.pipeline import run_pipeline
    from fedmm_secure.storage import run_directory

    config = headed_configuration()
    run_directory.create(folder / "run", config)
    run_pipeline(config, prepare_markets(config.data), folder / "run")


@pytest.fixture(scope="session")
def headed_run(tmp_path_factory) -> Path:
    """Directory of a run that others join; the processes of a session share it."""
    return made_once(tmp_path_factory, "headed", _headed) / "run"


def _founded(folder: Path) -> None:
    from experiments.deploy.homes import prepare_homes
    from tests.faults import configuration

    prepare_homes(configuration("masked-ckks", federation={"rounds": 2}), folder / "f")


@pytest.fixture(scope="session")
def founded(tmp_path_factory) -> SimpleNamespace:
    """A federation of four markets that was never asked anything, for ``DishonestServer.copy``."""
    from experiments.deploy.homes import Homes

    return SimpleNamespace(homes=Homes(made_once(tmp_path_factory, "founded", _founded) / "f"), run="d" * 32)


@contextmanager
def put_back(folder: Path, kept: Path) -> Iterator[Path]:
    """A copy of ``kept`` in ``folder``, made where there is none; what is done to it, and beside it, is taken back.

    A copy of a run is hundreds of files, and few of them are changed.
    """
    from tests.malicious import marks, restore

    run = folder / kept.name
    if not os.path.lexists(run):
        shutil.copytree(kept, run)
    before = marks(run)
    yield run
    if run.is_dir() and not run.is_symlink():
        restore(run, kept, before)
    for path in folder.iterdir():
        if path != run:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def changing(tmp_path_factory) -> Path:
    """A folder for copies that tests of a module change one after another."""
    return tmp_path_factory.mktemp("changing")


@pytest.fixture(scope="module")
def few_trees():
    """For modules that say nothing of how good boosted trees are."""
    from tests.smaller import fewer_trees

    with fewer_trees():
        yield


@pytest.fixture
def released_copy(released_run, changing) -> Iterator[Path]:
    """A copy of it that may be changed, alone in its folder."""
    with put_back(changing, released_run) as run:
        yield run
