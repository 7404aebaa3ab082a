"""What a run directory starts with: the resolved configuration, and what code on which machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from fedmm_secure.cache import code_version
from fedmm_secure.config import Config
from fedmm_secure.storage import write_atomic, write_json

CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE = "config.yaml", "environment.json", "metrics.json"
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


def begin(directory: Path, config: Config) -> None:
    """Write what every run directory starts with; the configuration last, for with it a run has begun."""
    write_json(directory / ENVIRONMENT_FILE, environment())
    write_atomic(directory / CONFIG_FILE, to_yaml(config).encode())


def to_yaml(config: Config) -> str:
    """The resolved configuration; reading it back gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=False), sort_keys=False, allow_unicode=True)


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
    vectors = torch.backends.cpu.get_cpu_capability()
    return {"system": platform.system(), "processor": platform.machine(), "vectors": vectors}


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
