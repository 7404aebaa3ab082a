import pytest

from fedmm_secure.executors import processes
from tests.processes import as_multiprocessing
from tests.recalled import recalling


@pytest.fixture(autouse=True, scope="session")
def quick_processes():
    """Pools start their workers by a fork of a process that has imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "multiprocessing", as_multiprocessing())
        yield


@pytest.fixture(autouse=True, scope="session")
def recalled():
    """What verification made of the same bytes before is not computed again."""
    with recalling():
        yield
