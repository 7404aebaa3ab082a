"""Libraries that tell their makers how they are used: all of them are told not to, before any is imported.

Whatever module of this package imports one, the package was imported before; child processes inherit it. It is said
whatever the environment says: what trains on people's rows talks to nobody unasked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SILENCE: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",  # consoledonottrack.com
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def silence() -> None:
    """Set what tells them; for this process, and those that it starts."""
    os.environ.update(SILENCE)
