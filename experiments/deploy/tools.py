"""Programs that a federation runs: where they are, and what bounds their lives."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from fedmm_secure.errors import ConfigError

ADDRESS = "127.0.0.1"  # where the processes of one host listen
KILL_AFTER = 10
LINE = "fedmm: "  # how lines begin that the server's app prints


def flower_tool(name: str) -> str:
    """Path of a command of this environment; raises ``ConfigError`` if it is not installed."""
    path = shutil.which(name, path=search_path())
    if path is None:
        raise ConfigError(f"{name} is not installed; it comes with the extra deploy: docs/how-to/install.md")
    return path


def search_path() -> str:
    """Commands of this Python's environment come first."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def bounded(seconds: float) -> list[str]:
    """Start of a command that ends after so many seconds, and at once when the thread that starts it is gone.

    ``setpriv`` asks the kernel for SIGTERM then (PR_SET_PDEATHSIG), which ``timeout`` hands on to the command and what
    it started, with SIGKILL ``KILL_AFTER`` seconds later.
    """
    return [
        *ends_with_parent(),
        *(_system_tool("timeout", "coreutils"), "--signal=TERM", f"--kill-after={KILL_AFTER}", f"{seconds:g}"),
    ]


def ends_with_parent() -> list[str]:
    """Start of a command that gets SIGTERM when the thread that starts it is gone."""
    return [_system_tool("setpriv", "util-linux"), "--pdeathsig", "TERM"]


def _system_tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ConfigError(f"the command '{name}' ({package}) is missing")
    return path
