"""Whether what a run computed can be computed here again to the last bit."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from experiments.verification.evidence import Evidence
from fedmm_secure.storage.provenance import code_version, machine, packages


def same_libraries(evidence: Evidence) -> bool:
    """Whether Python and the libraries that write publications are of the versions that the run names."""
    stated = evidence.environment.get("packages")
    if not isinstance(stated, Mapping) or evidence.environment.get("python") != platform.python_version():
        return False
    here = packages()
    return all(stated.get(name) == here[name] for name in ("numpy", "torch"))


def same_machine(evidence: Evidence) -> bool:
    """Whether code, libraries and kind of processor are those that the run names."""
    environment = evidence.environment
    same_code = environment.get("code") == code_version()
    return same_code and same_libraries(evidence) and environment.get("machine") == machine()


@contextmanager
def one_thread() -> Iterator[None]:
    """As runs compute: sums of several threads may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
