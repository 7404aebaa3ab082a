"""The section of a configuration that says which markets are generated."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from fedmm_secure.config.base import LARGEST_SEED, Section
from fedmm_secure.config.choices import MOST_PAIRS, MOST_ROWS


class SyntheticSpec(Section):
    """Parameters of the generator; sizes are per market."""

    markets: int = Field(3, ge=1, le=1000, description="number of markets")
    users: int = Field(400, ge=20, le=5_000_000, description="users in a market")
    items: int = Field(200, ge=20, le=1_000_000, description="items in a market")
    shared_items: int = Field(
        0, ge=0, le=1_000_000, description="of these, items that all markets have, under the same ids"
    )
    mean_interactions: float = Field(12.0, ge=4.0, le=10_000, description="mean interactions of a user")
    shared_prototypes: int = Field(8, ge=2, le=64, description="item prototypes common to all markets")
    local_prototypes: int = Field(4, ge=2, le=64, description="item prototypes of one market alone")
    shared_strength: float = Field(3.0, ge=0, le=1000, description="log-odds that shared taste adds")
    local_strength: float = Field(1.5, ge=0, le=1000, description="log-odds that local taste adds")
    popularity_exponent: float = Field(0.7, ge=0, le=100, description="Zipf exponent of item popularity")
    activity_spread: float = Field(0.6, ge=0, le=10, description="log-normal spread of user activity")
    seed: int = Field(0, ge=-LARGEST_SEED, le=LARGEST_SEED, description="seed of the generator")

    @model_validator(mode="after")
    def _some_of_them(self) -> Self:
        if self.shared_items > self.items:
            raise ValueError(f"shared_items: {self.shared_items} of {self.items} items")
        of_each = self.markets * self.users
        for what, count, most in (
            ("pairs of a user and an item", of_each * self.items, MOST_PAIRS),
            ("rows", of_each * min(self.mean_interactions, self.items / 2), MOST_ROWS),
        ):  # whoever reads a run generates its markets
            if count > most:
                raise ValueError(f"data.synthetic: {count:.3g} {what} in all markets, of at most {most:.3g}")
        return self

    @property
    def catalogue_size(self) -> int:
        """Items of all markets together."""
        return self.shared_items + self.markets * (self.items - self.shared_items)

    def item_ids(self, index: int) -> list[str]:
        """Ids of a market's items, the shared ones first."""
        own = range(self.shared_items, self.items)
        return [f"i{item:05d}" for item in range(self.shared_items)] + [f"m{index}-i{item:05d}" for item in own]
