"""The mechanisms that a configuration chooses, at noise multipliers that were solved from the budget."""

from __future__ import annotations

from fedmm_secure.config.privacy import DiscoveryConfig, DPSGDConfig
from privacy.mechanisms.dp_sgd import DPSGD
from privacy.mechanisms.partition_selection import PartitionSelection


def dp_sgd(chosen: DPSGDConfig, noise_multiplier: float) -> DPSGD:
    """DP-SGD of a stage."""
    return DPSGD(noise_multiplier, chosen.clipping_norm, chosen.sampling_rate, chosen.clipping)


def partition_selection(chosen: DiscoveryConfig, noise_multiplier: float, delta: float) -> PartitionSelection:
    """The discovery of items; ``delta`` is that of the whole run.

    All other mechanisms have to fit the budget at what is left of δ, ``(1 - delta_share) · delta``.
    """
    return PartitionSelection(chosen.items_per_user, noise_multiplier, chosen.delta_share * delta)
