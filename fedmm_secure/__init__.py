"""FedMM: federated multi-market recommendation with codes, privacy-hardened.

Zhang, Liu, Tang, He, Ming, "FedMM", SIGIR 2026, arXiv 2605.11433.
"""

from typing import TYPE_CHECKING

from privacy.lazy import attributes_of

if TYPE_CHECKING:
    from fedmm_secure.api import FedMM, load_market
else:  # a configuration is read without the libraries that train
    __getattr__ = attributes_of(__name__, dict.fromkeys(("FedMM", "load_market"), "fedmm_secure.api"))

__all__ = ["FedMM", "load_market"]
