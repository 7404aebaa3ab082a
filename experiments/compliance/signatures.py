"""Ed25519 signatures by identities of ``fedmm keys``, as they stand in files."""

from __future__ import annotations

from dataclasses import asdict

from experiments.compliance.document import CardStated, Signature
from privacy.aggregation.identities import Card, Identity


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
        card.verify(bytes.fromhex(signature.value), data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its signature does not hold: {error}") from error
    if card.fingerprint != signature.fingerprint:
        raise ValueError("its fingerprint is not that of the signer's card")
    return card
