"""Coin tossing by a market and an auditor, of which the first link of a run's noise is made (Blum, 1981).

1. The market draws a coin of 256 bits and seals it for the auditor's card. The sealed coin stands in the ledger's first
   line, beside the fingerprint of the rows, the configuration and the run's id: it binds the market, since it opens to
   one coin alone, and hides the coin from everybody but the auditor.
2. The auditor signs the hash of that line. An Ed25519 signature is the auditor's coin: it follows from the auditor's
   key and from the line, so the auditor keeps nothing for it and cannot choose it in honesty, and nobody else foresees
   it. It stands in the ledger's second line, where everybody can check it.
3. Both together make link 0, before anything is charged.

So the market fixes its coin, its rows and its configuration before it knows the auditor's coin, and cannot choose its
noise. What it can do is ask for another coin with another first line, and go on with what it likes best: k questions
choose the best of k draws, at most ``log2 k`` bits. The auditor's book (``fedmm keys coins``) says how many it asked.
The auditor opens the market's coin before signing, and could sign otherwise than Ed25519 says: that chooses noise which
the auditor knows in any case.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dp_accounting.dp_event import NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.federation.noise_chain import NoiseChain
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import OPEN, Entry, Ledger, LedgerContent, read_ledger
from privacy.accounting.lines import canonical_json
from privacy.aggregation.identities import Card, Identity, read_public, seal, write_public
from privacy.aggregation.streams import derive_key
from privacy.errors import InputError, StoppedError
from privacy.files import KeyFileError, erase, read_secret, write_json, write_secret

COINS = "auditors-coin"  # the stage of the second line
REPLAY = "replay"  # of the first line
_MECHANISM = "coin of the auditor, who can draw all noise of this run again"
_COIN_BYTES = 32
_SEALED = re.compile(r"[0-9a-f]{160}")  # an ephemeral key, the coin, a tag


class CoinError(InputError):
    """A coin that is not the auditor's, or belongs to another run."""


class CoinsAwaitedError(StoppedError):
    """A run is open, and waits for the coins of the auditor who is to replay it."""

    def __init__(self, directory: Path, auditor: Card, markets: Sequence[str]) -> None:
        super().__init__(
            f"{directory}: is open, and awaits coins for {', '.join(markets)}: hand its ledger/ to {auditor.name}, "
            f"{auditor.fingerprint}, who runs fedmm keys coins; then go on with --resume --coins FILE"
        )


def coin_note(signature: str) -> Release:
    """What the second line says: nothing is released."""
    return Release(COINS, _MECHANISM, NoOpDpEvent(), None, (), (), remark=signature)


def coin_text(market: str, run: str, opening: str) -> bytes:
    """What an auditor signs: the hash of a market's opening line."""
    return b"fedmm-secure coin\0" + canonical_json({"market": market, "run": run, "opening": opening})


def first_link(coin: bytes, signature: bytes, market: str, run: str) -> bytes:
    """Link 0 of a market's noise, 32 bytes, from the market's coin and the auditor's."""
    return derive_key(coin + signature, b"fedmm-secure noise of a run\0" + _context(market, run))


def _context(market: str, run: str) -> bytes:
    return canonical_json({"market": market, "run": run})


@dataclass(frozen=True)
class Coins:
    """A market's part of a toss.

    Attributes:
        auditor: whose card the configuration names.
        market: the market.
        run: the run's id.
        folder: of the market's keys in hand.
    """

    auditor: Card
    market: str
    run: str
    folder: Path

    @classmethod
    def of(cls, config: Config, market: str, run: str, layout: RunDirectory) -> Coins | None:
        """Those of a run that an auditor is to replay; None for any other."""
        asked = config.audit.replay
        return None if asked is None else cls(asked.card, market, run, layout.charges(market))

    def stated(self, opening: Mapping[str, Any], courses: int) -> dict[str, Any]:
        """What the first line says beside all else: as it stands there, or with a fresh coin.

        Raises:
            CoinError: another course of the run goes on, and so many ended before: what was in hand is drawn anew.
        """
        if courses:
            raise CoinError(
                f"market {self.market}: goes on from an old copy of its state, or on another kind of machine with a "
                "charge in hand, where noise would be drawn twice over from one key; a run that is replayed cannot: "
                "start a new one"
            )
        if REPLAY in opening:
            return {REPLAY: opening[REPLAY]}
        coin = secrets.token_bytes(_COIN_BYTES)
        write_secret(self._coin, coin, replace=True)  # before the line that is bound to it
        sealed = seal(coin, self.auditor, _context(self.market, self.run))
        return {REPLAY: {"auditor": self.auditor.fingerprint, "sealed": sealed.hex()}}

    def chain(self, ledger: Ledger, delta: float, answers: Path) -> NoiseChain | None:
        """Where the run's noise comes from; None while the auditor has not answered.

        Raises:
            CoinError: the answer is not the auditor's, or of another run.
        """
        chain = NoiseChain(self.folder)
        if not any(entry.stage == COINS for entry in ledger.entries):
            signature = _answer(answers, self.market)
            if signature is None:
                return None
            if not is_coin(self.auditor, signature, self.market, self.run, ledger.opening_hash):
                raise CoinError(
                    f"{answers}: the coin of market {self.market} is not one that {self.auditor.name}, "
                    f"{self.auditor.fingerprint}, signed for this run: hand its ledger to the auditor again"
                )
            chain.begin(first_link(read_secret(self._coin), bytes.fromhex(signature), self.market, self.run))
            ledger.note(coin_note(signature).entry(self.market, delta=delta, seeded=False))
        erase(self._coin)
        return chain

    @property
    def _coin(self) -> Path:
        return self.folder / "coin.key"


def is_coin(auditor: Card, signature: str, market: str, run: str, opening: str) -> bool:
    """Whether a coin, hexadecimal, is the auditor's for the run that this line opened."""
    try:
        found = bytes.fromhex(signature)
        auditor.verify(found, coin_text(market, run, opening))
    except (ValueError, TypeError):
        return False
    return found.hex() == signature  # in its one spelling: there is no room beside


def noted_coin(entries: Sequence[Entry]) -> str | None:
    """The auditor's coin as a ledger says it; None where it does not."""
    return next((entry.remark for entry in entries if entry.stage == COINS), None)


def stated_toss(config: Config, opening: Mapping[str, Any]) -> dict[str, Any]:
    """What a first line has to say of a toss; to who cannot open it, what is sealed may be anything of its size."""
    if config.audit.replay is None:
        return {}
    asked = opening.get(REPLAY)
    sealed = asked.get("sealed") if isinstance(asked, Mapping) else None
    known = isinstance(sealed, str) and _SEALED.fullmatch(sealed) is not None
    fingerprint = config.audit.replay.card.fingerprint
    return {REPLAY: {"auditor": fingerprint, "sealed": sealed if known else "a coin of the market"}}


@dataclass(frozen=True)
class Toss:
    """What an auditor finds in a ledger: whose run it is, and what the market has bound itself to.

    Attributes:
        market: the market.
        run: the run's id.
        opening: hash of the first line.
        data: fingerprint of the rows.
        configuration: hash of the configuration.
        sealed: the market's coin, sealed.
    """

    market: str
    run: str
    opening: str
    data: str
    configuration: str
    sealed: bytes

    @classmethod
    def of(cls, content: LedgerContent, auditor: Card) -> Toss:
        """Raises ``CoinError`` where a ledger asks this auditor for nothing."""
        opening = content.opening
        asked = opening.get(REPLAY)
        try:
            if not isinstance(asked, Mapping) or asked["auditor"] != auditor.fingerprint:
                raise CoinError(f"its first line does not name the card {auditor.fingerprint} for a replay")
            market, run, data, configuration = (str(opening[key]) for key in ("market", "run", "data", "configuration"))
            return cls(market, run, content.opening_hash, data, configuration, bytes.fromhex(asked["sealed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CoinError(f"its first line says nothing that a coin could be tossed for: {error!s:.100}") from error

    def first_link(self, auditor: Identity) -> bytes:
        """Link 0, by the auditor's own key alone.

        Raises:
            CoinError: the market's coin was not sealed for this auditor and this run.
        """
        try:
            coin = auditor.open(self.sealed, _context(self.market, self.run))
        except ValueError:
            raise CoinError("the market's coin does not open with this key, or is of another run") from None
        if len(coin) != _COIN_BYTES:
            raise CoinError(f"the market's coin has {len(coin)} bytes, not {_COIN_BYTES}")
        return first_link(coin, self.answer(auditor), self.market, self.run)

    def answer(self, auditor: Identity) -> bytes:
        """The auditor's coin."""
        return auditor.sign(coin_text(self.market, self.run, self.opening))


def asked_tosses(directory: Path, auditor: Identity) -> list[Toss]:
    """What the ledgers of a run directory ask an auditor for.

    Raises:
        CoinError: there is no ledger; or one asks for nothing, or has gone on, so that its market knows its noise.
        LedgerError: one cannot be read.
    """
    found = []
    for path in sorted(RunDirectory(directory).ledgers.glob("*.jsonl")):
        content = read_ledger(path)
        if content.kinds != (OPEN,):
            raise CoinError(f"{path}: has {len(content.kinds)} lines; a coin is tossed for one whose first line is all")
        try:
            toss = Toss.of(content, auditor.card)
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


def hand_in(answers: Path, place: Path) -> None:
    """Keep an auditor's coins where the run looks for them; whose they are is seen there."""
    write_json(place, {"coins": dict(_coins(answers))})


def _answer(path: Path, market: str) -> str | None:
    """An auditor's coin; None where there is none for this market. Whose it is, the signature says."""
    found = _coins(path).get(market) if path.exists() else None
    return found if isinstance(found, str) else None


def _coins(path: Path) -> Mapping[str, Any]:
    fields = read_public(path)
    found = fields.get("coins") if isinstance(fields, Mapping) else None
    if not isinstance(found, Mapping):
        raise KeyFileError(f"{path}: is no file of an auditor's coins")
    return found
