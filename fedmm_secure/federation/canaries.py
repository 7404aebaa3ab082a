"""Canaries of a run: whose coins decide which crafted users are in, committed to before and opened at the end.

A market draws a nonce and puts its hash into the ledger's first line; the last line opens it. Coins follow from it, and
from the auditor's nonce in the configuration, which the market cannot have known when it wrote its code. So no coin is
chosen once noise is known, and whoever reads the ledger tosses them all again.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config
from fedmm_secure.errors import LostResultError
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import Ledger, stage_group
from privacy.accounting.lines import canonical_json
from privacy.aggregation.streams import derive_key
from privacy.files import read_secret, write_secret
from privacy.hexadecimal import bytes_of, is_digest
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource
from privacy.mechanisms.spare import Spare

_MOST = 2**26  # coins of a crowd over all steps: whoever verifies tosses them again
CROWD = 60.0  # standard deviations of the noise that a crowd weighs: one of .9 is seen by its sum in one step
CANARIES = "canaries"  # of the first line, and of the last


@dataclass(frozen=True)
class RunCanaries:
    """The canaries of one market.

    Attributes:
        count: of each stage, at most: as many as it has spare coordinates, but for one, which a crowd is in.
        key: from which all their coins follow.
    """

    count: int
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, config: Config, market: str, run: str, nonce: bytes) -> RunCanaries:
        """Those that a market's nonce and the auditor's make."""
        context = {"market": market, "run": run, "auditor": config.audit.nonce or ""}
        return cls(config.audit.canaries, derive_key(nonce, b"fedmm-secure canaries\0" + canonical_json(context)))

    def spare(self, count: int, plan: SpendingPlan, stage: str, round: int | None = None) -> Spare:
        """Spare coordinates of a release with its canaries and its crowd: in every round of a stage the same are in."""
        source, group = NoiseSource(self.key, seeded=False), stage_group(stage)
        planned = plan.stages[group]
        wanted = math.ceil(CROWD * plan.noise[group] / planned.sampling_rate)
        crowd = min(wanted, _MOST // planned.steps)
        member = source.derive("coins", stage).coins(0.5, min(self.count, count - 1))
        sampling = source.derive("sampling", stage, str(round)).words(KEY_BYTES // 8).tobytes()
        return Spare(count, member, crowd, sampling)


def committed_canaries(config: Config, opening: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the first line says of canaries: as it stands there, or of a fresh nonce, kept in ``folder``."""
    if not config.audit.canaries:
        return {}
    if CANARIES in opening:
        return {CANARIES: opening[CANARIES]}
    nonce = secrets.token_bytes(KEY_BYTES)
    write_secret(_file(folder), nonce, replace=True)
    return {CANARIES: hashlib.sha256(nonce).hexdigest()}


def stated_canaries(config: Config, opening: Mapping[str, Any]) -> dict[str, Any]:
    """What a first line has to say of canaries; which nonce it means, the last line opens."""
    if not config.audit.canaries:
        return {}
    said = opening.get(CANARIES)
    return {CANARIES: said if is_digest(said) else "a hash of the canaries' nonce"}


def kept_nonce(opening: Mapping[str, Any], folder: Path) -> bytes | None:
    """The nonce that a first line commits to; None where it commits to none.

    Raises:
        LostResultError: it is gone.
    """
    if CANARIES not in opening:
        return None
    path = _file(folder)
    nonce = read_secret(path) if path.exists() else b""
    if not is_committed(opening, nonce):
        raise LostResultError(f"{path}: the nonce of the canaries is gone; restore it, or start a new run")
    return nonce


def run_canaries(
    config: Config, run: str, ledgers: Mapping[str, Ledger], layout: RunDirectory
) -> dict[str, RunCanaries]:
    """The canaries of the markets whose ledgers are open, where the configuration asks for any.

    Raises:
        LostResultError: a nonce is gone.
    """
    found = {}
    for market, ledger in ledgers.items():
        closed = opened_nonce(ledger.opening, ledger.closing)
        nonce = closed or kept_nonce(ledger.opening, layout.charges(market))
        if nonce is not None:
            found[market] = RunCanaries.of(config, market, run, nonce)
    return found


def is_committed(opening: Mapping[str, Any], nonce: bytes) -> bool:
    """Whether this is a nonce, and the one that a first line commits to: what is hashed may have any length."""
    return len(nonce) == KEY_BYTES and hashlib.sha256(nonce).hexdigest() == opening.get(CANARIES)


def opened_nonce(opening: Mapping[str, Any], closing: Mapping[str, Any] | None) -> bytes | None:
    """The nonce that a last line opens, in its one spelling; None where it is not what the first line commits to."""
    said = None if closing is None else closing.get(CANARIES)
    try:
        nonce = bytes_of(said) if isinstance(said, str) else b""
    except ValueError:
        return None
    return nonce if is_committed(opening, nonce) else None


def _file(folder: Path) -> Path:
    return folder / "canaries.key"
