import sys
from importlib import import_module
from types import SimpleNamespace

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


GRAMMARS = "rfc3987_syntax"


def is_valid_syntax(rule, text):
    """As that of the package, which is imported by now."""
    if isinstance(sys.modules[GRAMMARS], SimpleNamespace):
        del sys.modules[GRAMMARS]
    return import_module(GRAMMARS).is_valid_syntax(rule, text)


# on import it builds forty grammars, in over a second: ``jsonschema`` needs them where a text has to be an IRI alone
sys.modules.setdefault(GRAMMARS, SimpleNamespace(is_valid_syntax=is_valid_syntax))
