"""Secure aggregation: fixed-point codec, aggregators that return the exact sum, and the keys of a federation."""

from privacy.aggregation.authentication import AuthenticatedMarket, SumTags
from privacy.aggregation.base import (
    AggregationError,
    Binding,
    Carrier,
    ForgedSumError,
    MarketAggregator,
    ServerAggregator,
)
from privacy.aggregation.ckks import CKKSKey, CKKSMarket, CKKSServer
from privacy.aggregation.codec import FixedPointCodec
from privacy.aggregation.masking import MaskedMarket, MaskReuseError, PairwiseMasks, masked_parameters
from privacy.aggregation.parameters import CKKSParameters
from privacy.aggregation.plaintext import PlaintextMarket, PlaintextServer
from privacy.aggregation.shared_key import SharedKey

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
