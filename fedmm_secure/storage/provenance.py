"""What code made a result, on which machine."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

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


def environment() -> dict[str, Any]:
    """Versions, commit and machine."""
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "commit": _commit(),
        "code": code_version(),
        "machine": machine(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def packages() -> dict[str, str | None]:
    """Versions of what the results depend on."""
    return {name: _version(name) for name in PACKAGES}


def machine() -> dict[str, str]:
    """What results depend on to the last bit: system, processor, and the vector instructions that PyTorch uses."""
    import torch  # asked by whoever trains, or checks who trained, and has loaded it; nothing else here needs it

    vectors = torch.backends.cpu.get_cpu_capability()
    return {"system": platform.system(), "processor": platform.machine(), "vectors": vectors}


@cache
def code_version() -> str:
    """Hash of the sources that compute results, and of the versions of the libraries that they rest on."""
    digest = hashlib.sha256()
    for package in _SOURCES:
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
