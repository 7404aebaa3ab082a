"""The last line of each ledger: what a run left, by hash, and who signed for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from experiments.verification.evidence import Evidence
from fedmm_secure.federation.canaries import CANARIES
from fedmm_secure.federation.closing import (
    closing_text,
    file_digests,
    kept_names,
    private_files,
    transcript_digest,
)
from fedmm_secure.federation.coins import asked_by
from fedmm_secure.federation.private_record import commitment, committed_absence, private_name, read_salt
from fedmm_secure.federation.transcript import INDEX, OWN_UPDATE, PUBLICATION, record_file
from fedmm_secure.guarantee.stages import USER_CODES
from fedmm_secure.storage.layout import PRIVATE, RunDirectory
from privacy.accounting.ledger import LedgerContent, stage_group
from privacy.accounting.ledger_check import Finding
from privacy.aggregation.identities import Card
from privacy.hexadecimal import bytes_of, is_digest

_MOST_NAMED = 20
_FIELDS = frozenset({"files", "private", "transcript", "lines", "card", "signature"})


@dataclass(frozen=True)
class ClosingSignature:
    """Who signed a ledger's last line.

    Attributes:
        name: on the card.
        fingerprint: of the card, to be compared with the signer's own.
        own: whether the card is one of the run's own federation: a key that the run may have made itself, which proves
            nothing to others unless they know its fingerprint from elsewhere.
    """

    name: str
    fingerprint: str
    own: bool

    @property
    def text(self) -> str:
        """One line for a reader."""
        of = ", a key of the run's own federation: self-signed, it proves nothing to others" if self.own else ""
        return f"signed by {self.name} {self.fingerprint}{of}"


def signature_of(evidence: Evidence, market: str) -> tuple[ClosingSignature, Card] | None:
    """Who signed a market's ledger; None where it is not closed, or the signature does not hold."""
    content = evidence.ledgers[market]
    try:
        card = _signer(market, evidence, content)
    except (ValueError, TypeError, KeyError, OSError):
        return None
    if card is None:
        return None
    own = card.signing in {party.signing for party in evidence.bundle.cards.values()}
    return ClosingSignature(card.name, card.fingerprint, own), card


def _signer(market: str, evidence: Evidence, content: LedgerContent) -> Card | None:
    """The card whose signature the closing line carries; raises where it does not hold."""
    if content.closing is None:
        return None
    closing = dict(content.closing)
    fields = _FIELDS | ({CANARIES} if evidence.config.audit.canaries else set())
    if set(closing) != fields:
        raise ValueError(f"holds {', '.join(sorted(closing))}, where {', '.join(sorted(fields))} are expected")
    card, signature = Card(**closing.pop("card")), bytes_of(closing.pop("signature"))
    card.verify(signature, closing_text(market, str(content.opening.get("run")), content.previous, closing))
    return card


def closing_findings(evidence: Evidence, signer: Card | None) -> list[Finding]:
    """What the closing lines do not fit, or who did not sign them.

    Args:
        evidence: the run.
        signer: the card that must have signed, from outside the run; None takes any that holds.
    """
    findings = []
    for market, content in evidence.ledgers.items():
        path = evidence.ledger(market)
        if content.closing is None:
            findings.append(
                Finding(str(path), "is not closed: nothing says what the run left, and that no line is missing")
            )
            continue
        where = f"{path}:{len(content.kinds)}"
        try:
            card = _signer(market, evidence, content)
        except (ValueError, TypeError, KeyError) as error:
            findings.append(Finding(where, f"its signature does not hold: {error!s:.200}"))
            continue
        if signer is not None and card is not None and card != signer:
            said = f"is signed by {card.name} {card.fingerprint}, not by {signer.name} {signer.fingerprint}"
            findings.append(Finding(where, said))
        asked = asked_by(content.opening)
        if asked is not None and card is not None and asked != card:
            what = f"is signed by {card.name} {card.fingerprint}, and its first line's coin was asked for by"
            findings.append(Finding(where, f"{what} {asked.name} {asked.fingerprint}: one card has to sign for both"))
        findings += [
            Finding(where, what) for what in _differences(evidence, market, content.closing, len(content.kinds))
        ]
    return findings


def _differences(evidence: Evidence, market: str, closing: Mapping[str, Any], lines: int) -> Iterator[str]:
    if closing["lines"] != lines or type(closing["lines"]) is not int:
        yield f"counts {closing['lines']!r:.50} lines, the ledger has {lines}"
    if closing["transcript"] != transcript_digest(evidence.messages.index):
        yield "the transcript is not the one that was signed for"
    named, found = closing["files"], file_digests(evidence.directory, evidence.config, market)
    if not isinstance(named, Mapping) or not _are_digests(closing["private"]):
        yield "names no files"
        return
    for name in sorted({*named, *found}):
        if name not in found:
            yield f"{name!r:.100} was signed for, and is missing"
        elif name not in named:
            yield f"{name} is there, and was not signed for"
        elif named[name] != found[name]:
            yield f"{name} is not the one that was signed for"
    for name in sorted(closing["private"].keys() - _kept_names(evidence, market))[:_MOST_NAMED]:
        yield f"commits to {name!r:.100}, which no run keeps: a name has room for a message"
    yield from _private_differences(evidence, market, closing["private"])


def _kept_names(evidence: Evidence, market: str) -> set[str]:
    """Names of files that a market keeps to itself, shown or not: they follow from configuration and ledger."""
    config, names = evidence.config, [private_name(market, INDEX)]
    for entry in (charge.entry for charge in evidence.ledgers[market].charges):
        is_round, is_of_users = entry.round is not None, stage_group(entry.stage) == USER_CODES
        if is_round or is_of_users:
            kind = OWN_UPDATE if is_round else PUBLICATION
            file = record_file(entry.stage, entry.round or 0, entry.attempt or 0, kind, market)
            names.append(private_name(market, file))
    names += [RunDirectory().head(market).as_posix()] if config.head.trees else []
    return {*kept_names(config, market), *names}


def _private_differences(evidence: Evidence, market: str, named: Mapping[str, str]) -> Iterator[str]:
    """Of files that nobody has to show, those that are there and are not what was committed to."""
    salt = read_salt(evidence.directory, market)
    there = _private_files(evidence, market)
    yield from (f"{name} is there, and was not signed for" for name in sorted(there.keys() - named.keys()))
    if salt is not None:
        for name in sorted(there.keys() & named.keys()):
            if commitment(salt, there[name], evidence.directory) != named[name]:
                yield f"{name} is not the one that was signed for"


def not_shown(evidence: Evidence, market: str) -> list[str]:
    """Private files of a market that are not there, or not with the key of their commitments: nobody checked them.

    Those of which the last line says that they never were are not among them, where the key is there to tell.
    """
    salt = read_salt(evidence.directory, market)
    there = {} if salt is None else _private_files(evidence, market)
    own = f"{PRIVATE}/{market}/"
    absent = {
        name
        for name, said in private_digests(evidence.ledgers[market]).items()
        if name not in there and not (salt is not None and said == committed_absence(salt, name))
    }
    return sorted({own if name.startswith(own) else name for name in absent})


def private_digests(content: LedgerContent) -> Mapping[str, str]:
    """What a ledger's last line commits to without showing it, by path; nothing where there is no such line."""
    named = content.closing.get("private") if content.closing is not None else None
    return named if _are_digests(named) else {}


def _private_files(evidence: Evidence, market: str) -> dict[str, Path]:
    found = private_files(evidence.directory, evidence.config, market)
    return {path.relative_to(evidence.directory).as_posix(): path for path in found}


def _are_digests(named: Any) -> TypeGuard[Mapping[str, str]]:
    return isinstance(named, Mapping) and all(map(is_digest, named.values()))
