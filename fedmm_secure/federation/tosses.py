"""An auditor's part of a toss: what ledgers ask a coin for, and the coins (``coins`` says how both make one key)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmm_secure.federation.coins import (
    COIN_BYTES,
    DIGEST_BYTES,
    REPLAY,
    CoinError,
    asker,
    coin_text,
    first_link,
    is_request,
    toss_context,
)
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import OPEN, LedgerContent, read_ledger
from privacy.aggregation.identities import Card, Identity, write_public
from privacy.hexadecimal import bytes_of

_OF_RUN = ("run", "configuration", "federation")  # what the first lines of one run say alike


@dataclass(frozen=True)
class Toss:
    """What an auditor finds in a ledger: whose run it is, and what the market has bound itself to.

    Attributes:
        market: the market.
        run: the run's id.
        opening: hash of the first line.
        data: fingerprint of the rows, of this run alone.
        configuration: hash of the configuration.
        sealed: the market's coin, and a fingerprint of the rows for this auditor, sealed.
        card: who asks for the coin, and has to sign the run; None in a run of an earlier version.
    """

    market: str
    run: str
    opening: str
    data: str
    configuration: str
    sealed: bytes
    card: Card | None

    @classmethod
    def of(cls, content: LedgerContent, auditor: Card) -> Toss:
        """Raises ``CoinError`` where a ledger asks this auditor for nothing."""
        opening = content.opening
        asked = opening.get(REPLAY)
        try:
            if not isinstance(asked, Mapping) or asked["auditor"] != auditor.fingerprint:
                raise CoinError(f"its first line does not name the card {auditor.fingerprint} for a replay")
            market, run, data, configuration = (str(opening[key]) for key in ("market", "run", "data", "configuration"))
            if not is_request(asked, market, run):
                raise CoinError("its first line asks for a coin in no way of this version, or nobody signed it")
            card, sealed = asker(asked, market, run), bytes_of(asked["sealed"])
            return cls(market, run, content.opening_hash, data, configuration, sealed, card)
        except (KeyError, TypeError, ValueError) as error:
            raise CoinError(f"its first line says nothing that a coin could be tossed for: {error!s:.100}") from error

    @property
    def by_place(self) -> bool:
        """Whether keys follow from places of the plan; in a run of an earlier version, from what was drawn before."""
        return self.card is not None

    def first_link(self, auditor: Identity) -> bytes:
        """Link 0, by the auditor's own key alone.

        Raises:
            CoinError: the market's coin was not sealed for this auditor and this run.
        """
        coin, _ = self._opened(auditor)
        return first_link(coin, self.answer(auditor), self.market, self.run)

    def rows(self, auditor: Identity) -> str:
        """Fingerprint of users and items of the market's rows, of which the auditor knows it again; raises likewise.

        Empty in a run of an earlier version.
        """
        return self._opened(auditor)[1].hex()

    def _opened(self, auditor: Identity) -> tuple[bytes, bytes]:
        try:
            found = auditor.open(self.sealed, toss_context(self.market, self.run))
        except ValueError:
            raise CoinError("the market's coin does not open with this key, or is of another run") from None
        wanted = COIN_BYTES + (DIGEST_BYTES if self.by_place else 0)
        if len(found) != wanted:
            raise CoinError(f"what the market sealed has {len(found)} bytes, not {wanted}")
        return found[:COIN_BYTES], found[COIN_BYTES:]

    def answer(self, auditor: Identity) -> bytes:
        """The auditor's coin."""
        return auditor.sign(coin_text(self.market, self.run, self.opening))


def asked_tosses(directory: Path, auditor: Identity) -> list[Toss]:
    """What the ledgers of a run directory ask an auditor for.

    Raises:
        CoinError: there is no ledger; or one asks for nothing, or has gone on, so that its market knows its noise; or
            they are not those of one run: who asks for many coins at once would look like many markets.
        LedgerError: one cannot be read.
    """
    found, first = [], dict[str, Any]()
    for path in sorted(RunDirectory(directory).ledgers.glob("*.jsonl")):
        content = read_ledger(path)
        if content.kinds != (OPEN,):
            raise CoinError(f"{path}: has {len(content.kinds)} lines; a coin is tossed for one whose first line is all")
        try:
            toss, first = Toss.of(content, auditor.card), first or dict(content.opening)
            if toss.market != path.stem:
                raise CoinError(f"is of market {toss.market}: a ledger has its market's name")
            for name in _OF_RUN:
                if content.opening.get(name) != first.get(name):
                    raise CoinError(f"{name}: is not that of {first['market']}: coins are tossed for one run at a time")
            if toss.card is None:
                raise CoinError("was opened by an earlier version, which drew otherwise: open the run with this one")
            toss.first_link(auditor)  # a coin that does not open would be found when all is over
            found.append(toss)
        except CoinError as error:
            raise CoinError(f"{path}:1: {error}") from error
    if not found:
        raise CoinError(f"{directory}: holds no ledger/MARKET.jsonl")
    return found


def write_answers(path: Path, auditor: Identity, tosses: Sequence[Toss]) -> None:
    """The auditor's coins of the markets of a run, to be handed to them."""
    coins = {toss.market: toss.answer(auditor).hex() for toss in tosses}
    write_public(path, {"card": asdict(auditor.card), "coins": coins})
