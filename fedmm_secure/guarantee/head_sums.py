"""Sums that a head is grown from: how many values travel, and how large they are; both follow from public numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fedmm_secure.config import Config
from fedmm_secure.guarantee.head_columns import BINS, NAMES, SCALE
from fedmm_secure.guarantee.multipliers import MarketSize, require_sizes


def head_length(config: Config) -> int:
    """Integers of each sum: gradients and second derivatives by node of the widest level, feature and bin."""
    return int(2**config.head.depth) * len(NAMES) * BINS


def head_bound(config: Config, sizes: Mapping[str, MarketSize]) -> int:
    """Largest absolute value that a market adds.

    A user has an example for the latest rows and for the validation row, each with its negatives, where the market
    knows everybody and where it knows fewer; a gradient is at most 1.

    Raises:
        ConfigError: the size of a market is not known.
    """
    require_sizes(sizes, "head.trees")
    whole = sum(share == 1 for share in config.head.shares)
    copies = whole + (len(config.head.shares) > whole)
    rows = max(config.ctr.cross_fit.last, 1) + 1
    each = 1 + (config.data.negatives_per_positive if config.data.label == "click" else 0)
    return max(size.users for size in sizes.values()) * copies * rows * each * SCALE
