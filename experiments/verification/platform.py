"""Whether what a run computed can be computed here again to the last bit."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from experiments.verification.evidence import Evidence
from fedmm_secure.config.choices import DeviceSetting
from fedmm_secure.devices import device_record
from fedmm_secure.storage.provenance import code_version, packages, processor


def same_code(evidence: Evidence) -> bool:
    """Whether the code is that which the run names."""
    return bool(evidence.environment.get("code") == code_version())


def same_libraries(evidence: Evidence) -> bool:
    """Whether Python and the libraries that write publications are of the versions that the run names."""
    stated = evidence.environment.get("packages")
    if not isinstance(stated, Mapping) or evidence.environment.get("python") != platform.python_version():
        return False
    here = packages()
    return all(stated.get(name) == here[name] for name in ("numpy", "torch"))


def same_machine(evidence: Evidence) -> bool:
    """Whether code, libraries and kind of processor are those that the run names."""
    stated = {key: value for key, value in _machine(evidence).items() if key != "device"}
    return same_code(evidence) and same_libraries(evidence) and stated == processor()


def replaying_device(evidence: Evidence) -> DeviceSetting:
    """Where noised steps are taken again: on a GPU where the run says that it had one, and there is one here."""
    return "cpu" if _machine(evidence).get("device", "cpu") == "cpu" else "auto"


def same_device(evidence: Evidence) -> bool:
    """Whether they are taken on the device that the run names."""
    return bool(_machine(evidence).get("device", "cpu") == device_record(replaying_device(evidence)))


def _machine(evidence: Evidence) -> Mapping[str, Any]:
    stated = evidence.environment.get("machine")
    return stated if isinstance(stated, Mapping) else {}


@contextmanager
def one_thread() -> Iterator[None]:
    """As runs compute: sums of several threads may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
