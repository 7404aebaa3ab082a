import pytest

from experiments.sweep import scheduler
from tests.processes import as_multiprocessing


@pytest.fixture(autouse=True, scope="session")
def quick_processes():
    """Sweeps start their workers by a fork of a process that has imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "multiprocessing", as_multiprocessing())
        yield
