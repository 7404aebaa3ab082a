"""What a release is while it goes through the door: paid for, and what its computation leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedmm_secure.errors import LostResultError
from privacy.accounting.ledger import Charge
from privacy.aggregation.base import IntVector
from privacy.mechanisms.randomness import NoiseSource


@dataclass(frozen=True)
class Transaction:
    """A release that is paid for.

    Attributes:
        charge: its line in the ledger.
        digest: of the sealed result; None while there is no seal.
    """

    charge: Charge
    digest: str | None
    _key: bytes | None = field(default=None, repr=False)

    @property
    def source(self) -> NoiseSource:
        """The randomness of this release; the same whenever it is asked for, and gone once the release is sealed."""
        return NoiseSource(self.key, seeded=self.charge.entry.seeded)

    @property
    def key(self) -> bytes:
        """Key of the randomness, for a computation in another process of the market."""
        if self._key is None:
            raise LostResultError(f"{self.charge.entry.stage}: has no key of randomness: it draws none, or is sealed")
        return self._key


@dataclass(frozen=True)
class Result:
    """What a computation leaves.

    Attributes:
        data: the bytes that are published or kept.
        meter: spare coordinates in grid units, which hold noise alone; None where nothing was drawn.
    """

    data: bytes
    meter: IntVector | None = None
