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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from dp_accounting.dp_event import NoOpDpEvent

from fedmm_secure.config import Config
from fedmm_secure.federation.noise_chain import NoiseChain
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.fingerprints import PublicData
from privacy.accounting.ledger import OPEN, Entry, Ledger, read_ledger
from privacy.accounting.lines import canonical_json
from privacy.aggregation.at_rest import LockedFiles
from privacy.aggregation.identities import Card, Identity, read_public, seal
from privacy.aggregation.streams import derive_key
from privacy.errors import InputError, StoppedError
from privacy.files import KeyFileError, write_json
from privacy.hexadecimal import bytes_of

COINS = "auditors-coin"  # the stage of the second line
REPLAY = "replay"  # of the first line
_MECHANISM = "coin of the auditor, who can draw all noise of this run again"
_BY_PLACE = 2  # version of a toss; version 1, which was not stated, had a key by how many were drawn before
COIN_BYTES, DIGEST_BYTES = 32, 32
_COIN = "coin.key"
_SEALED = re.compile(r"[0-9a-f]{224}")  # an ephemeral key, the coin, a fingerprint of the rows, a tag
_SEALED_BEFORE = re.compile(r"[0-9a-f]{160}")  # without a fingerprint


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
    return derive_key(coin + signature, b"fedmm-secure noise of a run\0" + toss_context(market, run))


def toss_context(market: str, run: str) -> bytes:
    """What a sealed coin, and all that follows from it, is bound to."""
    return canonical_json({"market": market, "run": run})


@dataclass(frozen=True)
class Coins:
    """A market's part of a toss.

    Attributes:
        auditor: whose card the configuration names.
        market: the market.
        run: the run's id.
        owner: who asks for the auditor's coin, and signs the run.
        files: what is in hand of the run's noise, locked.
    """

    auditor: Card
    market: str
    run: str
    owner: Identity = field(repr=False)
    files: LockedFiles

    @classmethod
    def of(
        cls,
        config: Config,
        run: str,
        folder: Path,
        account: PrivacyAccount | PublicData,
        identity: Identity,
        signer: Identity | None,
    ) -> Coins | None:
        """Those of a run that an auditor is to replay; None for any other.

        Args:
            config: of the run.
            run: its id.
            folder: of the market's keys in hand.
            account: that the run is entered in.
            identity: the market's own in the federation.
            signer: who signs for it, where that is somebody else.
        """
        asked, market = config.audit.replay, identity.card.name
        if asked is None:
            return None
        files = _locked_noise(folder, account, identity, run)
        return cls(asked.card, market, run, signer or identity, files)

    def stated(self, opening: Mapping[str, Any], courses: int, rows: Callable[[str], str]) -> dict[str, Any]:
        """What the first line says beside all else: as it stands there, or with a fresh coin.

        Args:
            opening: the line, if it is there.
            courses: of the run that ended before this one.
            rows: fingerprint of the market's rows for a reader of this card, who can compare, hexadecimal.

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
        coin = secrets.token_bytes(COIN_BYTES)
        self.files.write(_COIN, coin)  # before the line that is bound to it
        sealed = seal(
            coin + bytes_of(rows(self.auditor.fingerprint)), self.auditor, toss_context(self.market, self.run)
        ).hex()
        asked = self.owner.sign(_request_text(self.market, self.run, sealed)).hex()
        card = asdict(self.owner.card)
        fields = {"version": _BY_PLACE, "sealed": sealed, "card": card, "signature": asked}
        return {REPLAY: {"auditor": self.auditor.fingerprint, **fields}}

    def chain(self, ledger: Ledger, plan: SpendingPlan, answers: Path) -> NoiseChain | None:
        """Where the run's noise comes from; None while the auditor has not answered.

        Raises:
            CoinError: the answer is not the auditor's, or of another run.
        """
        chain = NoiseChain(self.files, self.market, plan.drawing)
        if not any(entry.stage == COINS for entry in ledger.entries):
            signature = answered_coin(answers, self.market)
            if signature is None:
                return None
            if not is_coin(self.auditor, signature, self.market, self.run, ledger.opening_hash):
                raise CoinError(
                    f"{answers}: the coin of market {self.market} is not one that {self.auditor.name}, "
                    f"{self.auditor.fingerprint}, signed for this run: hand its ledger to the auditor again"
                )
            chain.begin(first_link(self.files.read(_COIN), bytes_of(signature), self.market, self.run))
            ledger.note(coin_note(signature).entry(self.market, delta=plan.delta, seeded=False))
        self.files.erase(_COIN)
        return chain


def _request_text(market: str, run: str, sealed: str) -> bytes:
    """What a market signs when it asks for a coin."""
    return b"fedmm-secure request for a coin\0" + canonical_json({"market": market, "run": run, "sealed": sealed})


def _locked_noise(folder: Path, account: PrivacyAccount | PublicData, identity: Identity, run: str) -> LockedFiles:
    """What tells noise that is yet to be drawn, under the privacy account's key and the market's own.

    Neither lies with the run's state; the identity may be under a passphrase besides. Ed25519 signs one text one way,
    so a signature that is shown to nobody is a secret which the identity makes again whenever it is there.
    """
    context = toss_context(identity.card.name, run)
    secret = account.secret_of_run(run) + identity.sign(b"fedmm-secure noise at rest\0" + context)
    return LockedFiles(folder, derive_key(secret, b"fedmm-secure locked noise\0" + context))


def is_coin(auditor: Card, signature: str, market: str, run: str, opening: str) -> bool:
    """Whether a coin, hexadecimal, is the auditor's for the run that this line opened."""
    try:
        auditor.verify(bytes_of(signature), coin_text(market, run, opening))
    except (ValueError, TypeError):
        return False
    return True


def noted_coin(entries: Sequence[Entry]) -> str | None:
    """The auditor's coin as a ledger says it; None where it does not."""
    return next((entry.remark for entry in entries if entry.stage == COINS), None)


def asked_by(opening: Mapping[str, Any]) -> Card | None:
    """Who asked for a coin in a first line, and so has to sign the last; None where nobody did, or had to."""
    asked = opening.get(REPLAY)
    return None if not isinstance(asked, Mapping) else asker(asked, str(opening.get("market")), str(opening.get("run")))


def stated_toss(config: Config, market: str, opening: Mapping[str, Any]) -> dict[str, Any]:
    """What a first line has to say of a toss; to who cannot open it, what is sealed may be anything of its size."""
    if config.audit.replay is None:
        return {}
    asked, auditor = opening.get(REPLAY), config.audit.replay.card.fingerprint
    if is_request(asked, market, str(opening.get("run"))):
        return {REPLAY: {**asked, "auditor": auditor}}
    return {REPLAY: {"auditor": auditor, "sealed": "a coin of the market, and who signs for it"}}


def is_request(asked: Any, market: str, run: str) -> TypeGuard[Mapping[str, Any]]:
    """Whether a market asks for a coin as it has to, this version's way or the one before's."""
    if not isinstance(asked, Mapping) or not isinstance(sealed := asked.get("sealed"), str):
        return False
    if asked.keys() == {"auditor", "sealed"}:
        return _SEALED_BEFORE.fullmatch(sealed) is not None
    whole = asked.keys() == {"auditor", "version", "sealed", "card", "signature"} and asked["version"] == _BY_PLACE
    return whole and _SEALED.fullmatch(sealed) is not None and asker(asked, market, run) is not None


def asker(asked: Mapping[str, Any], market: str, run: str) -> Card | None:
    """Who signed a request for a coin; None where nobody did."""
    try:
        card, signature = Card(**asked["card"]), bytes_of(asked["signature"])
        card.verify(signature, _request_text(market, run, asked["sealed"]))
    except (ValueError, TypeError, KeyError):
        return None
    return card if signature.hex() == asked["signature"] else None


def require_coin(config: Config, market: str, directory: Path) -> None:
    """Raises ``CoinsAwaitedError`` where a run is open, and its auditor has not answered; changes nothing."""
    layout = RunDirectory(directory)
    path, asked = layout.ledger(market), config.audit.replay
    if asked is None or not path.is_file() or answered_coin(layout.coins, market) is not None:
        return
    if read_ledger(path).kinds == (OPEN,):
        raise CoinsAwaitedError(directory, asked.card, [market])


def hand_in(answers: Path, place: Path) -> None:
    """Keep an auditor's coins where the run looks for them; whose they are is seen there."""
    write_json(place, {"coins": dict(_coins(answers))})


def answered_coin(path: Path, market: str) -> str | None:
    """An auditor's coin; None where there is none for this market. Whose it is, the signature says."""
    found = _coins(path).get(market) if path.exists() else None
    return found if isinstance(found, str) else None


def _coins(path: Path) -> Mapping[str, Any]:
    fields = read_public(path)
    found = fields.get("coins") if isinstance(fields, Mapping) else None
    if not isinstance(found, Mapping):
        raise KeyFileError(f"{path}: is no file of an auditor's coins")
    return found
