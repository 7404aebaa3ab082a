"""What code made a result, on which machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from fedmm_secure.config.choices import DeviceSetting
from fedmm_secure.devices import device_record
from privacy.json_text import json_text

PACKAGES = (
    "fedmm-secure",
    "torch",
    "opacus",
    "tenseal",
    "dp-accounting",
    "jax-privacy",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
)
_SOURCES = ("fedmm_secure", "privacy")  # what computes results, and the libraries that they rest on
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch")
_TELLING = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")  # of /proc/cpuinfo
# first words of variables by which libraries choose other kernels, or share work out otherwise
_STEERING = (
    "ATEN",
    "BLIS",
    "CUBLAS",
    "CUDA",
    "DNNL",
    "GLIBC_TUNABLES",
    "GOMP",
    "GOTO",
    "KMP",
    "MKL",
    "NPY",
    "NVIDIA",
    "OMP",
    "ONEDNN",
    "OPENBLAS",
    "PYTORCH_CUDA",
    "TORCH",
)
_CACHES = ("TORCHINDUCTOR_CACHE_DIR",)  # which PyTorch sets itself once something has trained: not a way to compute


def environment(device: DeviceSetting) -> dict[str, Any]:
    """Versions, commit and machine, with what a device setting means on it."""
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "commit": _commit(),
        "code": code_version(),
        "machine": machine(device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def packages() -> dict[str, str | None]:
    """Versions of what the results depend on."""
    return {name: _version(name) for name in PACKAGES}


def machine(device: DeviceSetting) -> dict[str, str]:
    """What results depend on to the last bit: system, processor, the vector instructions that PyTorch uses, and the
    device that trains.
    """
    return processor() | {"device": device_record(device)}


def processor() -> dict[str, str]:
    """The same but for what trains: codes, scores and sums of published arrays are computed on the processor."""
    import torch  # asked by whoever trains, or checks who trained, and has loaded it; nothing else here needs it

    vectors = torch.backends.cpu.get_cpu_capability()
    return {"system": platform.system(), "processor": platform.machine(), "vectors": vectors}


def computing_kind(device: DeviceSetting) -> str:
    """Hash of all that the last bits of a computation may hang on: libraries, processor, vector units, threads, GPU.

    A charge in hand is computed once more where this is the same. It is finer than ``machine``, which says what a
    reader has to have: here a difference that may be none costs a charge, and one that is overlooked a guarantee.
    """
    found = {
        **machine(device),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "libc": platform.libc_ver(),
        "features": _processor_features(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "steered": {
            name: value for name, value in os.environ.items() if name.startswith(_STEERING) and name not in _CACHES
        },
    }
    return hashlib.sha256(json_text(found, sort_keys=True).encode()).hexdigest()


def _processor_features() -> list[str]:
    """What linear algebra chooses its kernels by: maker, model and flags, or the processor's name where none are told.

    Every core of a machine is taken for one of the first core's kind.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return [platform.processor()]
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    chosen = {name.strip(): value for name, value in told.items() if name.strip() in _TELLING}
    return [f"{name}: {' '.join(sorted(value.split()))}" for name, value in sorted(chosen.items())]


@cache
def code_version(sources: tuple[str, ...] = _SOURCES) -> str:
    """Hash of the sources that compute results, and of the versions of the libraries that they rest on.

    Args:
        sources: names of packages; by default those that a run rests on.
    """
    digest = hashlib.sha256()
    for package in sources:
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
