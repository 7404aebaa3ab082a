"""FedMM: federated multi-market recommendation with codes, privacy-hardened.

Zhang, Liu, Tang, He, Ming, "FedMM", SIGIR 2026, arXiv 2605.11433.
"""

from fedmm_secure.api import FedMM, load_market

__all__ = ["FedMM", "load_market"]
