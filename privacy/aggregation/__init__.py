"""Secure aggregation: fixed-point codec, and aggregators that return the exact sum."""

from privacy.aggregation.base import AggregationError, MarketAggregator, ServerAggregator
from privacy.aggregation.ckks import CKKSKeys, CKKSMarket, CKKSParameters, CKKSServer
from privacy.aggregation.codec import FixedPointCodec
from privacy.aggregation.plaintext import PlaintextMarket, PlaintextServer

__all__ = [
    "AggregationError",
    "CKKSKeys",
    "CKKSMarket",
    "CKKSParameters",
    "CKKSServer",
    "FixedPointCodec",
    "MarketAggregator",
    "PlaintextMarket",
    "PlaintextServer",
    "ServerAggregator",
]
