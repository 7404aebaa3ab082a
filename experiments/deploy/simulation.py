"""Many markets on one machine: Flower's simulation engine in place of SuperNodes and market processes.

The ServerApp, its requests and the markets' answers are those of a deployment; a market's state is on disk, so any
of the engine's workers can answer for any market. Keys of all markets are in one place: this is for research.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib

from experiments.deploy.homes import Homes, copy_app, free_ports
from experiments.deploy.market import open_service
from experiments.deploy.processes import HOME_VARIABLE, DeploymentError, Processes, interruptible
from experiments.deploy.tools import ADDRESS, bounded, flower_tool, search_path
from fedmm_secure.service.market_service import run_directories

SIMULATION_VARIABLE = "FEDMM_SIMULATION_HOME"


def reply_of_market(partition: int, request: bytes) -> bytes:
    """The reply of the market with this number."""
    homes = Homes(Path(os.environ[SIMULATION_VARIABLE]))
    service = open_service(homes.market(_names(homes.root)[partition]))
    reply = service.answer(request)
    service.settle()
    return reply


@lru_cache(maxsize=1)
def _names(root: Path) -> tuple[str, ...]:
    return tuple(Homes(root).markets)


def simulate(homes: Homes, *, workers: int, lifetime: float, say: Callable[[str], None]) -> dict[str, float | None]:
    """One run over all markets; then each market's own stages, ``workers`` at a time. Returns test AUC by market.

    Raises:
        DeploymentError: the run did not finish.
    """
    from experiments.deploy import control  # Flower is an extra

    markets, processes = homes.markets, Processes(homes.root / "logs")
    (port,) = free_ports(1)
    engine = (
        "insecure = true",
        f"options.num-supernodes = {len(markets)}",
        "options.backend.client-resources.num-cpus = 1",
        f"options.backend.init-args.num-cpus = {workers}",
    )
    control.write_connection(homes.server, f"{ADDRESS}:{port}", engine)
    copy_app(homes.root / "app")  # no SuperNodes, no signatures: all keys are in one place anyway
    environment = {
        HOME_VARIABLE: str(homes.server),
        SIMULATION_VARIABLE: str(homes.root),
        "FLWR_HOME": str(homes.server / "flower"),
        "PATH": search_path(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then listens on 127.0.0.1 alone, on any system
    }
    command = [*bounded(lifetime), flower_tool("flower-superlink"), "--insecure", "--simulation"]
    command += ["--host", ADDRESS, "--port", str(port), "--disable-runtime-dependency-installation"]
    with interruptible():
        try:
            processes.start("superlink", command, environment)
            processes.wait_for("superlink", "Uvicorn running on http://")
            printed = control.flwr(
                homes.server, lifetime, "run", str(homes.root / "app"), control.CONNECTION, "--stream"
            )
        finally:
            processes.stop_all()
    lines = control.run_lines(printed)
    for line in lines:
        say(line)
    if not any(line.startswith("finished") for line in lines):
        raise DeploymentError(f"the run did not finish; the end of its log:\n{printed[-2000:]}")
    with interruptible():
        jobs = (joblib.delayed(_conclude)(homes, market) for market in markets)
        found: list[Any] = joblib.Parallel(n_jobs=workers)(jobs)
    return dict(zip(markets, found, strict=True))


def _conclude(homes: Homes, market: str) -> float | None:
    service = open_service(homes.market(market))
    (directory,) = run_directories(homes.market(market) / "runs")
    metrics = service.conclude(directory.name)
    auc: float | None = metrics["markets"][market]["auc"]
    return auc
