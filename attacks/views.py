"""What each adversary observes, read from a run's transcript and its own markets' records: nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.federation.transcript import INDEX, OWN_UPDATE, UPDATE, Record, parse_index, read_index, read_record
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation import CKKSKey
from privacy.aggregation.bundle import BUNDLE_FILE, Bundle, read_bundle
from privacy.aggregation.keys import KeyDirectory


@dataclass(frozen=True)
class Observation:
    """One message or value that the adversary holds."""

    kind: str
    stage: str
    round: int
    sender: str
    data: bytes


@dataclass(frozen=True)
class View:
    """An adversary's observations.

    Attributes:
        name: ``server``, ``market``, ``collusion`` or ``release``.
        markets: markets whose own values the adversary holds too.
        observations: in the order of the transcript.
        bundle: the federation's public material; None in a run without one.
        key: the markets' shared encryption key, which every market holds; None where there is none, or no market is
            part of the adversary.
    """

    name: str
    markets: tuple[str, ...]
    observations: tuple[Observation, ...]
    bundle: Bundle | None = None
    key: CKKSKey | None = field(default=None, repr=False)

    def select(self, kind: str) -> list[Observation]:
        """What there is of one kind, in the order of the run."""
        return [found for found in self.observations if found.kind == kind]


def server_view(run: Path) -> View:
    """An honest-but-curious server: every message that passes it."""
    return _view(run, "server", (), {"server"})


def market_view(run: Path, market: str) -> View:
    """One market: the decrypted sums of every round, and its own updates."""
    return _view(run, "market", (market,), {"markets"})


def collusion_view(run: Path, markets: Sequence[str]) -> View:
    """The server together with some markets."""
    keys = KeyDirectory(RunDirectory(run).keys(markets[0]))
    if not keys.has_identity:
        raise RunDirectoryError(f"{keys.path}: no keys; a market's own machine holds those of a deployed run")
    view = _view(run, "collusion", tuple(markets), {"server", "markets"})
    if view.bundle is None or keys.bundle().digest != view.bundle.digest:
        raise RunDirectoryError(f"{keys.path}: keys of another federation than the run's: an attack would open nothing")
    return replace(view, key=keys.key(keys.identity(), keys.bundle()).ckks)


def release_view(run: Path) -> View:
    """What was published under ``protect: release``: counts, item factors, RQ-VAE, item codes, CTR models."""
    return _view(run, "release", (), {"release"})


def owner_values(run: Path) -> View:
    """Every market's own updates: the truth that attacks are scored against. No adversary holds it.

    Raises:
        RunDirectoryError: they are not there, as in what is handed out of a run.
    """
    senders = {record.sender for record in _records(run) if record.kind == UPDATE}
    return _view(run, "truth", tuple(sorted(senders)), set())


def _view(run: Path, name: str, markets: tuple[str, ...], tags: set[str]) -> View:
    directory = RunDirectory(run).transcript
    bundle = directory / BUNDLE_FILE
    return View(
        name,
        markets,
        (
            *(
                Observation(record.kind, record.stage, record.round, record.sender, read_record(directory, record))
                for record in _records(run)
                if tags & set(record.visible_to)
            ),
            *(own for market in markets for own in _own(run, market)),
        ),
        read_bundle(bundle, below=run) if bundle.is_file() else None,
    )


def _own(run: Path, market: str) -> Iterator[Observation]:
    """A market's own updates, which it keeps to itself, as the run was closed with them."""
    closed, folder = ClosedRun(run, market), RunDirectory(run).private(market)
    for record in parse_index(closed.file(folder / INDEX), folder / INDEX):
        if record.kind == OWN_UPDATE:
            data = closed.file(folder / record.file)
            yield Observation(record.kind, record.stage, record.round, record.sender, data)


def _records(run: Path) -> list[Record]:
    directory = RunDirectory(run).transcript
    if not (directory / INDEX).is_file():
        raise RunDirectoryError(f"{run}: no transcript; is this a run directory?")
    return read_index(directory)
