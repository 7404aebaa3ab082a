"""Ed25519 signatures by identities of ``fedmm keys``, as they stand in files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy.aggregation.identities import Card, Identity
from privacy.hexadecimal import bytes_of


class SignedPart(BaseModel):
    """A part of a file that is signed: nothing in it but what is named, and no number without a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CardStated(SignedPart):
    """A card of ``fedmm keys``."""

    name: str
    signing: str = Field(description="Ed25519")
    sealing: str = Field(description="X25519")
    proof: str = Field(description="that the owner of the signing key made it")


class Signature(SignedPart):
    """Ed25519 over the canonical JSON of what it stands beside."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    card: CardStated = Field(description="the signer's public keys, as in a card of fedmm keys")
    fingerprint: str = Field(description="of the card, to be compared with the signer")
    value: str = Field(pattern=r"^[0-9a-f]{128}$")


def make_signature(identity: Identity, data: bytes) -> Signature:
    """A signature over ``data``, with the card that it is checked by."""
    card = identity.card
    return Signature(card=CardStated(**asdict(card)), fingerprint=card.fingerprint, value=identity.sign(data).hex())


def check_signature(signature: Signature, data: bytes) -> Card:
    """The card of who signed ``data``; whose card that is, is for the reader to establish.

    Raises:
        ValueError: the signature does not hold, or the card or its fingerprint is not what it says.
    """
    try:
        card = Card(**signature.card.model_dump())
        card.verify(bytes_of(signature.value), data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its signature does not hold: {error}") from error
    if card.fingerprint != signature.fingerprint:
        raise ValueError("its fingerprint is not that of the signer's card")
    return card
