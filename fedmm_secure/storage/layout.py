"""Where everything of a run lies: one class spells the paths, and everybody asks it.

``ledger/``, ``transcript/`` and the files at the top are handed out; ``private/``, ``codes/``, ``predictions/``, and
``models/`` unless they are published, are a market's own; ``state/`` is its owner's memory, evidence of nothing. What
attackers and auditors find stands in ``attacks/`` and ``audit/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE = "config.yaml", "environment.json", "metrics.json"
LOG_FILE, PAGE_FILE = "log.jsonl", "report.html"
GRID_FILE, CELLS = "sweep.yaml", "cells"  # of a sweep, whose runs share an account
LEDGER, TRANSCRIPT, PRIVATE, STATE = "ledger", "transcript", "private", "state"
CODES, _MODELS, PREDICTIONS = "codes", "models", "predictions"
_ATTACKS, _AUDIT = "attacks", "audit"
MARKET_FOLDERS = (CODES, _MODELS, PREDICTIONS, PRIVATE)  # with a file or a folder for each market


# of the federation; refined without DP; trained by the market alone, and once more for a model that sees no others
QuantizerKind = Literal["quantizer", "refined", "own", "own-alone"]


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run; without a place of its own, their names in any run directory.

    >>> RunDirectory().ledger("de").as_posix()
    'ledger/de.jsonl'

    Attributes:
        path: the directory.
    """

    path: Path = Path()

    # -- handed out ----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_FILE

    @property
    def environment(self) -> Path:
        """Versions, commit and machine."""
        return self.path / ENVIRONMENT_FILE

    @property
    def metrics(self) -> Path:
        """Figures; there is none before the run is finished."""
        return self.path / METRICS_FILE

    @property
    def page(self) -> Path:
        """The run's own page."""
        return self.path / PAGE_FILE

    @property
    def ledgers(self) -> Path:
        """Folder of the ledgers."""
        return self.path / LEDGER

    def ledger(self, market: str) -> Path:
        """What a market was charged for."""
        return self.ledgers / f"{market}.jsonl"

    @property
    def transcript(self) -> Path:
        """Folder of what the parties saw."""
        return self.path / TRANSCRIPT

    # -- a market's own, models apart that are published ---------------------------------------------------------------

    def private(self, market: str) -> Path:
        """Folder of what a market records for itself alone."""
        return self.path / PRIVATE / market

    def private_key(self, market: str) -> Path:
        """Key of a market's commitments."""
        return self.path / PRIVATE / f"{market}.key"

    def tuned(self, market: str, recipe: str) -> Path:
        """Hyper-parameters that private validation rows chose."""
        return self.private(market) / f"tuned-{recipe}.json"

    def codes(self, market: str) -> Path:
        """Codes of users and items."""
        return self.path / CODES / f"{market}.parquet"

    def predictions(self, market: str) -> Path:
        """Test candidates with the probabilities of each model."""
        return self.path / PREDICTIONS / f"{market}.parquet"

    def models(self, market: str) -> Path:
        """Folder of a market's models."""
        return self.path / _MODELS / market

    def quantizer(self, market: str, seed: int, *, kind: QuantizerKind = "quantizer") -> Path:
        """An RQ-VAE; beside it one that was refined without DP, and those that the market trained alone."""
        return self.models(market) / f"{kind}-{seed}.pt"

    def ctr(self, market: str, seed: int, suffix: str = "pt") -> Path:
        """A CTR model: ``pt`` for tensors, ``npz`` for trees."""
        return self.models(market) / f"ctr-{seed}.{suffix}"

    def head(self, market: str) -> Path:
        """The head of all markets, as this one grew it from their sums."""
        return self.models(market) / "head.npz"

    def own_files(self, market: str) -> list[Path]:
        """Every file that is there of a market beside its ledger, published models among them."""
        found = []
        for folder in MARKET_FOLDERS:
            found += [self.path / folder / f"{market}.parquet", *sorted((self.path / folder / market).rglob("*"))]
        return [path for path in found if path.is_file()]

    # -- what others found ---------------------------------------------------------------------------------------------

    @property
    def attacks(self) -> Path:
        """Folder of attacks' results."""
        return self.path / _ATTACKS

    @property
    def audits(self) -> Path:
        """Folder of audits' results."""
        return self.path / _AUDIT

    # -- the owner's memory --------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        """One line an event, with private values."""
        return self.path / LOG_FILE

    @property
    def state(self) -> Path:
        """What a killed run goes on from."""
        return self.path / STATE

    @property
    def lock(self) -> Path:
        """Held by the process that runs in the directory."""
        return self.state / "lock"

    @property
    def quickstart(self) -> Path:
        """There where the run is part of a quickstart, which goes on as one."""
        return self.state / "quickstart"

    def keys(self, party: str) -> Path:
        """Keys of a party of a run in process."""
        return self.state / "keys" / party

    def charges(self, market: str) -> Path:
        """Keys of the randomness of what is charged and not yet sealed."""
        return self.state / "charges" / market

    @property
    def coins(self) -> Path:
        """Coins of the auditor who is to replay the run, as they were handed in."""
        return self.state / "coins.json"

    @property
    def masks(self) -> Path:
        """Folder of the keys of pairwise masks."""
        return self.state / "masks"

    def mask(self, market: str, course: int) -> Path:
        """Key of a market's masks in a course of the run."""
        return self.masks / str(course) / f"{market}.key"

    def agreement(self, market: str, course: int) -> Path:
        """What a market has stated, so that it never states another."""
        return self.state / "agreement" / str(course) / f"{market}.json"

    def ended(self, market: str) -> Path:
        """There once a market has ended the run."""
        return self.state / "ended" / market

    def account(self, market: str) -> Path:
        """How a market is entered in the account over runs."""
        return self.state / "account" / f"{market}.json"

    def rounds(self, stage: str) -> Path:
        """Folder of the clients of a stage with rounds."""
        return self.state / stage

    @property
    def server(self) -> Path:
        """Folder of the server's kept orders."""
        return self.state / "server"

    def private_releases(self, market: str) -> Path:
        """Folder of what a market released and keeps: counts, factors, noise meters."""
        return self.state / "private" / market

    def meter(self, market: str, seed: int) -> Path:
        """Spare coordinates of the CTR model's noised steps."""
        return self.private_releases(market) / f"ctr-{seed}.meter"

    @property
    def field(self) -> Path:
        """Folder of predictions of the baselines that markets train together."""
        return self.state / "field"

    def kept_predictions(self, market: str) -> Path:
        """Folder of predictions as they were made, model by model."""
        return self.state / "ctr" / market
