"""Secure aggregation: fixed-point codec, aggregators that return the exact sum, and the keys of a federation."""

from typing import TYPE_CHECKING

from privacy.lazy import attributes_of

if TYPE_CHECKING:
    from privacy.aggregation.authentication import AuthenticatedMarket, SumTags
    from privacy.aggregation.base import (
        AggregationError,
        Binding,
        Carrier,
        ForgedSumError,
        MarketAggregator,
        ServerAggregator,
    )
    from privacy.aggregation.ckks import CKKSMarket, CKKSServer
    from privacy.aggregation.codec import FixedPointCodec
    from privacy.aggregation.masking import MaskedMarket, MaskReuseError, PairwiseMasks, masked_parameters
    from privacy.aggregation.parameters import CKKSParameters
    from privacy.aggregation.plaintext import PlaintextMarket, PlaintextServer
    from privacy.aggregation.shared_key import CKKSKey, SharedKey
else:  # who holds a key, or reads what a configuration may choose, does without the encryption
    _HOMES = {
        "authentication": ("AuthenticatedMarket", "SumTags"),
        "base": (
            "AggregationError",
            "Binding",
            "Carrier",
            "ForgedSumError",
            "MarketAggregator",
            "ServerAggregator",
        ),
        "ckks": ("CKKSMarket", "CKKSServer"),
        "codec": ("FixedPointCodec",),
        "masking": ("MaskReuseError", "MaskedMarket", "PairwiseMasks", "masked_parameters"),
        "parameters": ("CKKSParameters",),
        "plaintext": ("PlaintextMarket", "PlaintextServer"),
        "shared_key": ("CKKSKey", "SharedKey"),
    }
    __getattr__ = attributes_of(
        __name__, {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
    )

__all__ = [
    "AggregationError",
    "AuthenticatedMarket",
    "Binding",
    "CKKSKey",
    "CKKSMarket",
    "CKKSParameters",
    "CKKSServer",
    "Carrier",
    "FixedPointCodec",
    "ForgedSumError",
    "MarketAggregator",
    "MaskReuseError",
    "MaskedMarket",
    "PairwiseMasks",
    "PlaintextMarket",
    "PlaintextServer",
    "ServerAggregator",
    "SharedKey",
    "SumTags",
    "masked_parameters",
]
