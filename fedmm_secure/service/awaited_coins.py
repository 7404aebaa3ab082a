"""Runs of a deployed market that wait for the coin of their auditor, and how it is handed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmm_secure.config import Config
from fedmm_secure.federation.coins import CoinError, answered_coin, hand_in, is_coin
from fedmm_secure.service.market_service import run_directories
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import OPEN, read_ledger
from privacy.aggregation.identities import Card


@dataclass(frozen=True)
class WaitingRun:
    """A run whose ledger is open and has nothing but its first line.

    Attributes:
        market: whose run.
        directory: of the run.
        auditor: who is to toss a coin for it.
        opening: hash of the first line.
    """

    market: str
    directory: Path
    auditor: Card
    opening: str

    @property
    def run(self) -> str:
        """Its id."""
        return self.directory.name

    @property
    def ledger(self) -> Path:
        """The folder that the auditor needs, and nothing else."""
        return RunDirectory(self.directory).ledgers

    @property
    def has_coin(self) -> bool:
        """Whether the auditor's coin is there, and the run goes on as soon as it is asked for."""
        return self._is_answered(RunDirectory(self.directory).coins)

    def take(self, answers: Path) -> None:
        """Hand in the auditor's coin.

        Raises:
            CoinError: the file has none that this auditor signed for this run.
        """
        if not self._is_answered(answers):
            raise CoinError(
                f"{answers}: has no coin of {self.auditor.name}, {self.auditor.fingerprint}, for run {self.run} of "
                f"market {self.market}: hand {self.ledger} to the auditor"
            )
        hand_in(answers, RunDirectory(self.directory).coins)

    def _is_answered(self, answers: Path) -> bool:
        coin = answered_coin(answers, self.market)
        return coin is not None and is_coin(self.auditor, coin, self.market, self.run, self.opening)


def waiting_runs(config: Config, market: str, runs: Path) -> Iterator[WaitingRun]:
    """Runs of a home's folder that wait, in order; none where the configuration names no auditor."""
    for directory in run_directories(runs) if config.audit.replay is not None else ():
        path = RunDirectory(directory).ledger(market)
        content = read_ledger(path) if path.is_file() else None
        if content is not None and content.kinds == (OPEN,) and config.audit.replay is not None:
            yield WaitingRun(market, directory, config.audit.replay.card, content.opening_hash)
