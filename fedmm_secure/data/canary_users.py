"""Natural canary users: synthetic users whose rows come into a market's file as everybody's do.

An auditor's nonce makes candidates, each with a few items of its own that nobody else meets and a common one beside
them, and tosses the coin that says whether a candidate's rows are in. The configuration names the hash of all that, so
that the ledger's first line commits to it before anything is drawn; the file itself is the auditor's until the run is
over. To the market, its guarantee and its accounting they are users like all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.errors import ConfigError
from privacy.accounting.lines import canonical_json
from privacy.aggregation.streams import derive_key
from privacy.hexadecimal import bytes_of
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource

FEWEST, MOST = 16, 5000
OWN = 4  # items of each candidate alone: what it adds to a sum is far beyond the bound, were it not clipped
_LAST = 2  # items that all candidates meet at last, and nobody else: a split holds them out, and no pool has them
_FIELDS = {"market", "nonce", "count", "time", "calendar"}


@dataclass(frozen=True)
class CanaryUsers:
    """Candidates of one market.

    Attributes:
        market: theirs.
        nonce: 32 bytes, from which all else follows.
        count: of candidates; about half of them are in.
        time: of their rows, in the unit of the market's; None where its rows have none.
        calendar: whether that is nanoseconds since 1970.
    """

    market: str
    nonce: bytes = field(repr=False)
    count: int
    time: int | None = None
    calendar: bool = False

    @property
    def digest(self) -> str:
        """What a configuration names."""
        return hashlib.sha256(canonical_json(self.to_data())).hexdigest()

    def to_data(self) -> dict[str, str | int | None]:
        """What the auditor keeps."""
        return asdict(self) | {"nonce": self.nonce.hex()}

    @classmethod
    def from_data(cls, data: Any, where: str) -> CanaryUsers:
        """And back.

        Raises:
            ConfigError: it is something else.
        """
        problem = f"{where}: is no file of canary users, as fedmm data canaries writes it"
        if not isinstance(data, Mapping) or set(data) != _FIELDS:
            raise ConfigError(problem)
        market, nonce, count, time, calendar = (data[one] for one in ("market", "nonce", "count", "time", "calendar"))
        numbers = type(count) is int and FEWEST <= count <= MOST and (time is None or type(time) is int)
        if not (isinstance(market, str) and isinstance(nonce, str) and numbers and type(calendar) is bool):
            raise ConfigError(problem)
        try:
            key = bytes_of(nonce)
        except ValueError:
            raise ConfigError(problem) from None
        if len(key) != KEY_BYTES:
            raise ConfigError(problem)
        return cls(market, key, count, time, calendar)

    @cached_property
    def member(self) -> NDArray[np.bool_]:
        """Whether each candidate is in, ``(count,)``: fair coins."""
        return self._source("coins").coins(0.5, self.count)

    @cached_property
    def users(self) -> list[str]:
        """Ids of the candidates."""
        return [f"u-{word:016x}" for word in self._source("users").words(self.count).tolist()]

    @cached_property
    def items(self) -> NDArray[np.object_]:
        """The items that each candidate alone meets, ``(count, OWN)``."""
        return np.array(self._added[: self.count * OWN], dtype=object).reshape(self.count, OWN)

    def rows(self, catalogue: Catalogue) -> NDArray[np.object_]:
        """The items of each candidate's rows, in order, ``(count, _)``: one of the market's, its own, the last ones.

        ``catalogue`` may hold those of candidates.

        Raises:
            ConfigError: it holds no others.
        """
        added = set(self._added)
        others = np.array([item for item in catalogue.items.tolist() if item not in added], dtype=object)
        if not len(others):
            raise ConfigError(f"market {self.market}: its catalogue has no item but those of canary users")
        common = others[self._source("common").integers(len(others), self.count)]
        last = np.tile(np.array(self._added[-_LAST:], dtype=object), (self.count, 1))
        return np.concatenate([common[:, None], self.items, last], axis=1)

    def extended(self, catalogue: Catalogue) -> Catalogue:
        """A market's catalogue with the items of all candidates: it says nothing of who is in."""
        return Catalogue.of(catalogue.kind, [*catalogue.items.tolist(), *self._added])

    @cached_property
    def _added(self) -> list[str]:
        """All items that candidates bring: their own, and those that all of them meet at last."""
        return [f"i-{word:016x}" for word in self._source("items").words(self.count * OWN + _LAST).tolist()]

    def _source(self, purpose: str) -> NoiseSource:
        key = derive_key(self.nonce, b"fedmm-secure canary users\0" + self.market.encode())
        return NoiseSource(key, seeded=False).derive(purpose)
