"""Secure aggregation: fixed-point codec, aggregators that return the exact sum, and the keys of a federation."""

from privacy.aggregation.base import AggregationError, Binding, MarketAggregator, ServerAggregator
from privacy.aggregation.ckks import CKKSKey, CKKSMarket, CKKSServer
from privacy.aggregation.codec import FixedPointCodec
from privacy.aggregation.masking import MaskedMarket, MaskReuseError, PairwiseMasks, masked_parameters
from privacy.aggregation.parameters import CKKSParameters
from privacy.aggregation.plaintext import PlaintextMarket, PlaintextServer

__all__ = [
    "AggregationError",
    "Binding",
    "CKKSKey",
    "CKKSMarket",
    "CKKSParameters",
    "CKKSServer",
    "FixedPointCodec",
    "MarketAggregator",
    "MaskReuseError",
    "MaskedMarket",
    "PairwiseMasks",
    "PlaintextMarket",
    "PlaintextServer",
    "ServerAggregator",
    "masked_parameters",
]
