"""Verification of a run: what its ledgers, its transcript and its files claim, checked by whoever reads them."""

from experiments.verification.closing import ClosingSignature
from experiments.verification.run import Examination, examine_run, verify_run

__all__ = ["ClosingSignature", "Examination", "examine_run", "verify_run"]
