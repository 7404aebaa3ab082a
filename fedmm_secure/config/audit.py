"""The section of a configuration that lets an auditor look into a run itself."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from fedmm_secure.config.base import Section
from privacy.aggregation.identities import Card


class CardConfig(Section):
    """The fields of a party's ``card.json``."""

    name: str = Field(description="who it is")
    signing: str = Field(description="Ed25519 public key, hexadecimal")
    sealing: str = Field(description="X25519 public key, hexadecimal")
    proof: str = Field(description="signature of the rest, hexadecimal")

    @property
    def card(self) -> Card:
        """The card."""
        return Card(self.name, self.signing, self.sealing, self.proof)

    @model_validator(mode="after")
    def _holds(self) -> Self:
        _ = self.card  # raises ValueError where its proof does not hold
        return self


class AuditConfig(Section):
    """What an auditor may do with a run, beside what everybody may."""

    replay: CardConfig | None = Field(
        None,
        description="the auditor who draws all noise of the run again, and can so take it away: fields of card.json; "
        "null: nobody",
    )
    canaries: int = Field(
        0, ge=0, le=1500, description="crafted users in spare coordinates of each stage, half of them in, by coins"
    )
    users: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        default_factory=dict,
        max_length=1000,
        description="by market: hash of the auditor's file of canary users, whose rows are in that market's file "
        "(fedmm data canaries)",
    )
    nonce: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="the auditor's: coins of canaries follow from it too"
    )
