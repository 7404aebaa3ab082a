"""Trackers: runs in MLflow or TensorBoard, by the one interface of callbacks that the pipeline tells of progress.

They get what the log of a run gets, private values included, and belong to the run's owner like the log. So a tracker
writes files of this machine; one at another address is another name, which is the owner's explicit yes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedmm_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedmm_secure.pipeline import Listener

_MOST_CHARACTERS = 500  # of a parameter's value; MLflow takes no more


@contextmanager
def tensorboard_tracker(directory: Path) -> Iterator[Listener]:
    """Curves of a run for ``tensorboard --logdir``, written to ``tensorboard/`` of its directory."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory / "tensorboard"))

    def listener(event: str, fields: Mapping[str, Any]) -> None:
        for name, value, step in scalars(event, fields):
            writer.add_scalar(name, value, step)
        if event == "started":
            text = "\n".join(f"    {key}: {value}" for key, value in flattened(fields["config"]).items())
            writer.add_text("configuration", text)

    try:
        yield listener
    finally:
        writer.close()


@contextmanager
def mlflow_tracker(directory: Path) -> Iterator[Listener]:
    """A run in MLflow, at MLFLOW_TRACKING_URI and in MLFLOW_EXPERIMENT_NAME as its own documentation says."""
    import mlflow

    with mlflow.start_run(run_name=directory.resolve().name):

        def listener(event: str, fields: Mapping[str, Any]) -> None:
            if event == "started":
                found = flattened(fields["config"])
                mlflow.log_params({key: value[:_MOST_CHARACTERS] for key, value in found.items()})
            for name, value, step in scalars(event, fields):
                mlflow.log_metric(name, value, step=step)

        yield listener


@dataclass(frozen=True)
class Tracker:
    """A tracker that a run can be followed in.

    Attributes:
        follow: a listener, for as long as the run goes on.
        package: what has to be installed.
        somewhere_else: whether it may send what it gets to another address.
    """

    follow: Callable[[Path], AbstractContextManager[Listener]]
    package: str
    somewhere_else: bool = False


TRACKERS: Mapping[str, Tracker] = {
    "mlflow": Tracker(mlflow_tracker, "mlflow"),
    "mlflow-remote": Tracker(mlflow_tracker, "mlflow", somewhere_else=True),
    "tensorboard": Tracker(tensorboard_tracker, "tensorboard"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raises ``ConfigError`` for a tracker that is unknown, not installed, or would send figures elsewhere unasked."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--track {name}: choose from {', '.join(TRACKERS)}")
        if find_spec(TRACKERS[name].package) is None:
            raise ConfigError(f"--track {name}: not installed; the extra tracking has it: docs/how-to/install.md")
        if name == "mlflow" and (address := _elsewhere()) is not None:
            raise ConfigError(
                f"--track mlflow: it would send what the log gets, private losses included, to {address}: unset "
                "MLFLOW_TRACKING_URI, or say --track mlflow-remote if whoever reads there may have them"
            )


def _elsewhere() -> str | None:
    """Where MLflow sends what it gets, without name and password; None for files of this machine."""
    import mlflow
    from mlflow.utils.uri import is_local_uri

    address = mlflow.get_tracking_uri()
    found = urlsplit(address)
    local: bool = is_local_uri(address)  # type: ignore[no-untyped-call]
    if local or (found.scheme == "sqlite" and not found.netloc):
        return None
    return found.hostname or found.scheme or found.path


def open_trackers(names: Sequence[str], directory: Path, stack: ExitStack) -> list[Listener]:
    """Listeners of the named trackers, open as long as ``stack``."""
    return [stack.enter_context(TRACKERS[name].follow(directory)) for name in dict.fromkeys(names)]


def scalars(event: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every number of an event that makes a curve, or ends as one."""
    if event == "round":
        seed, step = fields["seed"], fields["round"]
        for key in ("loss", "epsilon"):
            if fields[key] is not None and math.isfinite(fields[key]):
                yield f"seed-{seed}/{key}", float(fields[key]), step
        for market, found in fields["markets"].items():
            for key, value in found.items():
                if value is not None and math.isfinite(value):
                    yield f"seed-{seed}/{market}/{key}", float(value), step
    elif event == "finished":
        figures = {"macro/auc": fields["macro"]["auc"]}
        figures |= {f"macro/{name}/auc": values["auc"] for name, values in fields["macro"]["baselines"].items()}
        for market, values in fields["markets"].items():
            figures |= {f"{market}/auc": values["auc"], f"{market}/logloss": values["logloss"]}
        for name, value in figures.items():
            if value is not None:  # noisy figures may drown
                yield name, float(value), 0
        yield from _guarantees(fields["privacy"])


def _guarantees(privacy: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Each ε there is: no number stands for a missing guarantee, nor for noise that follows from a known seed."""
    secret = {market: views for market, views in privacy["markets"].items() if not views.get("seeded")}
    found = {
        f"{market}/epsilon-{view}": views[view]["epsilon"]
        for market, views in secret.items()
        for view in ("market", "release")
    }
    if len(secret) == len(privacy["markets"]):
        persons = privacy.get("across_markets", {}).get("epsilon", {})
        found |= {f"person-in-all-markets/epsilon-{view}": epsilon for view, epsilon in persons.items()}
    for name, epsilon in found.items():
        if epsilon is not None:
            yield name, float(epsilon), 0


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as ``section.key``: text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{name}.")
        else:
            found[name] = str(value)
    return found
