"""The secrets that all markets of a federation share in one epoch, and the server lacks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256

from privacy.aggregation.authentication import TAG_KEY_BYTES
from privacy.aggregation.parameters import CKKSParameters


@dataclass(frozen=True)
class CKKSKey:
    """The markets' shared secret key, which ``repr`` does not show."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, parameters: CKKSParameters) -> CKKSKey:
        """A fresh secret of a ring."""
        from privacy.aggregation.seal import Ring  # whoever keeps, opens or names a key does without the library

        return cls(Ring(parameters).generate_key())


@dataclass(frozen=True)
class SharedKey:
    """What is sealed for each market. ``repr`` shows its fingerprint alone.

    Attributes:
        tag: key of the tags that authenticate sums, 32 bytes.
        ckks: key of the encryption; None where vectors travel in the clear.
        fingerprint: a hash by which markets can compare keys; it tells nothing of either.
    """

    tag: bytes = field(repr=False)
    ckks: CKKSKey | None = field(repr=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.tag) != TAG_KEY_BYTES:
            raise ValueError(f"a tag key has {TAG_KEY_BYTES} bytes")
        # 256 bits of the tag key are in it, so it can be published, and guesses at the rest cannot be checked
        object.__setattr__(self, "fingerprint", sha256(b"fedmm-secure shared key\0" + self.to_bytes()).hexdigest())

    @classmethod
    def generate(cls, parameters: CKKSParameters | None) -> SharedKey:
        """A new one; ``parameters`` of the encryption, None where there is none."""
        return cls(os.urandom(TAG_KEY_BYTES), None if parameters is None else CKKSKey.generate(parameters))

    def to_bytes(self) -> bytes:
        """Tag key, and behind it the ring's secret where there is one."""
        return self.tag + (b"" if self.ckks is None else self.ckks.secret)

    @classmethod
    def from_bytes(cls, data: bytes) -> SharedKey:
        """The inverse; raises ``ValueError`` on fewer bytes than a tag key has."""
        rest = data[TAG_KEY_BYTES:]
        return cls(data[:TAG_KEY_BYTES], CKKSKey(rest) if rest else None)
