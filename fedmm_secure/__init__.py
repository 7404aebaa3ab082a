"""FedMM: federated multi-market recommendation with codes, privacy-hardened.

Zhang, Liu, Tang, He, Ming, "FedMM", SIGIR 2026, arXiv 2605.11433.
"""

from typing import TYPE_CHECKING

from privacy.lazy import attributes_of

_NAMES = ("FedMM", "load_market", "predict", "recommend")
if TYPE_CHECKING:
    from fedmm_secure.api import FedMM, load_market, predict, recommend
else:  # a configuration is read without the libraries that train
    __getattr__ = attributes_of(__name__, dict.fromkeys(_NAMES, "fedmm_secure.api"))

__all__ = ["FedMM", "load_market", "predict", "recommend"]
