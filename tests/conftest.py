import gc
import io
import itertools
import logging
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.session import FOLDER  # nothing of the product: the process that hands out the tests runs none

STATE = "XDG_STATE_HOME"  # where privacy accounts are by default: never in the home of whoever runs the tests

MEMORY, ENOUGH = Path("/dev/shm"), 4 * 2**30  # bytes: ten times what a whole session leaves
TEMPORARY = "PYTEST_DEBUG_TEMPROOT"  # in the environment: where pytest puts what tests write

TESTS = Path(__file__).parent
REAL_DATA = TESTS.parents[1] / "shared" / "data" / "xmarket-electronics"

# what trains whole runs, starts processes or solves budgets, by the beginning of its path: not in make test-fast, like
# single tests of other modules that are marked so
LONG = (
    "adversary/test_attack_verdicts",
    "adversary/test_beside_the_run",
    "adversary/test_broken_runs",
    "adversary/test_changed_runs",
    "adversary/test_codebook",
    "adversary/test_dishonest_server",
    "adversary/test_entered_again",
    "adversary/test_failing_disks",
    "adversary/test_free_text",
    "adversary/test_handed_out",
    "adversary/test_hostile_hosts",
    "adversary/test_introductions",
    "adversary/test_joining_unaccounted",
    "adversary/test_malicious_directories",
    "adversary/test_manipulations",
    "adversary/test_memory",
    "adversary/test_neighbour_sums",
    "adversary/test_one_key_two_courses",
    "adversary/test_own_reading",
    "adversary/test_planted_audits",
    "adversary/test_replay",
    "adversary/test_room_in_messages",
    "adversary/test_several_markets",
    "adversary/test_smuggling",
    "adversary/test_transactions",
    "adversary/test_understated",
    "adversary/test_units",
    "attacks/auditing/",
    "attacks/handlers/",
    "attacks/inversion/test_deltas",
    "attacks/membership/",
    "attacks/poisoning/",
    "attacks/retraining/",
    "attacks/side_by_side/",
    "attacks/test_views",
    "experiments/assessment/test_attack",
    "experiments/assessment/test_audit",
    "experiments/assessment/test_canary_users",
    "experiments/benchmarks/",
    "experiments/commands/",
    "experiments/compliance/",
    "experiments/deploy/",
    "experiments/first_run/",
    "experiments/reports/test_pages",
    "experiments/reports/test_run_figures",
    "experiments/runs/",
    "experiments/test_",
    "experiments/verification/",
    "fedmm_secure/ctr/test_private_trainer",
    "fedmm_secure/federation/test_faults",
    "fedmm_secure/federation/test_rounds",
    "fedmm_secure/results/",
    "fedmm_secure/service/",
    "fedmm_secure/storage/test_cache",
    "fedmm_secure/test_pipeline",
    "privacy/accounting/test_accountants",
    "privacy/accounting/test_budget",
    "privacy/accounting/test_exactness",
    "test_docs",
    "test_packaging",
    "test_readme",
)

MANY = 1000  # tests, among them some of every kind

# of these, the ones whose single tests, or what a file's tests share, take longest
FIRST = (
    "test_docs",
    "experiments/deploy/test_federation",
    "experiments/assessment/test_attack",
    "experiments/test_real_markets",
    "experiments/reports/test_pages",
    "adversary/test_hostile_hosts",
)

settings.register_profile("ci", derandomize=True, max_examples=50, deadline=None)
settings.load_profile("ci")  # ``--hypothesis-profile=default`` draws other examples, and more

pytest_plugins = ("tests.released",)  # fixtures of runs that many tests read

TINY = {
    "data": {"synthetic": {"markets": 3, "users": 80, "items": 40, "mean_interactions": 10}},
    "embedding": {"dim": 8},
    "quantizer": {"global_codes": 8, "local_codes": 8, "latent_dim": 4, "hidden_dim": 16},
    "federation": {"rounds": 3, "local_epochs": 1},
    "ctr": {"baselines": ["popularity"], "max_epochs": 2},
    "privacy": {"pseudo_users": 200, "ctr": {"steps": 10}},
    "workers": 1,
}


def tiny(**sections):
    """A configuration that runs in seconds; sections are merged into the tiny ones."""
    from fedmm_secure.config import config_from_data

    data = {
        key: {**TINY.get(key, {}), **value} if isinstance(value, dict) else value for key, value in sections.items()
    }
    return config_from_data({**TINY, **data}, source="test")


def alone(config, directory: Path):
    """With an account of the run's own, which knows of no other run: for runs that are to be the same."""
    account = directory.with_name(f"{directory.name}.account")
    return config.model_copy(update={"privacy": config.privacy.model_copy(update={"account": account})})


def pytest_xdist_auto_num_workers(config):
    """One more than there are processors: tests wait for processes, browsers and clocks a third of their time.

    Not the short ones, of which a worker's start is a good part.
    """
    named = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", "")
    return int(named) if named.isdigit() else len(os.sched_getaffinity(0)) + (not _short_alone(config))


def _short_alone(config) -> bool:
    """Whether what is long is left out, as in ``not slow and not long``."""
    asked = config.option.markexpr
    return " or " not in asked and "not long" in asked.split(" and ")


def _place(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


def pytest_ignore_collect(collection_path, config):
    """What is left out is not even imported: that takes as long as a tenth of the short tests."""
    return True if _short_alone(config) and _place(collection_path).startswith(LONG) else None


def _write_to_memory() -> None:
    """Tests write and remove 100,000 files, which a disk takes seconds for: where there is room in memory, there."""
    if not MEMORY.is_dir() or {TEMPORARY, "TMPDIR"} & os.environ.keys():
        return
    found = os.statvfs(MEMORY)
    if found.f_bavail * found.f_frsize > ENOUGH and not found.f_flag & os.ST_NOEXEC:  # some tests write commands
        os.environ[TEMPORARY] = str(MEMORY)


def pytest_configure(config):
    _write_to_memory()
    if FOLDER not in os.environ:  # workers of pytest-xdist have that of their session
        folder = tempfile.mkdtemp(prefix="fedmm-answers-")
        os.environ[FOLDER] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    state = tempfile.mkdtemp(prefix="fedmm-state-")
    os.environ[STATE] = state  # of fixtures that tests share, and of the processes that they start
    os.environ.pop("FEDMM_ACCOUNT", None)
    config.add_cleanup(lambda: shutil.rmtree(state, ignore_errors=True))


def pytest_collection(session):
    """Before any module of tests is imported, in the processes that run them."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return  # this one hands them out
    import torch
    import typer.main

    from tests.accounting_cache import share_answers
    from tests.figure_sketch import sketch_figures
    from tests.processes import measure_less, skip_syncs

    share_answers()
    sketch_figures()
    skip_syncs()
    measure_less()
    typer.main.get_command = cache(typer.main.get_command)  # commands are built once, not at every call
    torch.set_num_threads(1)


def pytest_collection_finish(session):
    """What was imported and collected lives until the end: nobody looks for garbage among its million objects."""
    from tests.alarms import alarm_less
    from tests.processes import keep_a_fork

    if len(session.items) > MANY:  # what they will need anyway, once for this process and its forks
        import tests.preloaded  # noqa: F401
    if "experiments.verification.meter" in sys.modules:  # modules of tests that name its level have it by now
        alarm_less()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)  # 700 was a tenth of the time of short tests; what they make is small
    gc.enable()
    keep_a_fork()


def pytest_collection_modifyitems(items):
    """What takes long comes first, so that no worker waits for another's last test."""
    for item in items:
        if _place(item.path).startswith(LONG):
            item.add_marker("long")
    items.sort(key=_turn)


def _turn(item) -> tuple[int, bool]:
    place = _place(item.path)
    first = next((turn for turn, start in enumerate(FIRST) if place.startswith(start)), len(FIRST))
    return first, not place.startswith(LONG)


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def modules_state(tmp_path_factory):
    """Runs that the tests of a module share know of no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE, str(tmp_path_factory.mktemp("state")))
        yield


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_state(monkeypatch, tmp_path_factory):
    """Each test starts with an account that knows of no run; fixtures that tests share name theirs."""
    # pytest would count the folders of all tests before, for each
    monkeypatch.setenv(STATE, str(tmp_path_factory.getbasetemp() / "states" / str(next(_numbers))))


@pytest.fixture
def logged():
    """Gives all that was logged, whatever the level, as text."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    loggers = [root, *(logging.getLogger(name) for name in logging.Logger.manager.loggerDict)]
    for logger in loggers:  # some hand nothing on to the root
        logger.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text.getvalue
    root.setLevel(level)
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def tiny_markets():
    from fedmm_secure.data.prepare import prepare_markets

    return prepare_markets(tiny().data)


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """Commands that what is started finds first are forks of a process that has imported them, which takes seconds."""
    from experiments.deploy import control, federation, tools
    from tests.commands import forked_commands

    with forked_commands(tmp_path_factory.mktemp("commands")) as folder, pytest.MonkeyPatch.context() as patch:
        first = os.pathsep.join((str(folder), tools.search_path()))
        for module in (control, federation, tools):
            patch.setattr(module, "search_path", lambda: first)
        yield


@pytest.fixture
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data is not at {REAL_DATA}")
    return REAL_DATA
