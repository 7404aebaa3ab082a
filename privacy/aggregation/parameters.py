"""CKKS parameters from requirements, with the proof that they sum exactly.

A vector of integers is packed into the coefficients of polynomials of degree below ``N``: with ``k`` values a
coefficient, digits of base ``2 D + 1``, where ``D`` bounds the absolute sum of one value over the cohort. Four
statements make the decrypted sum equal to the integer sum; ``CKKSParameters.derive`` admits nothing else.

1. *No carry.* A sum of digits lies within ``±D``, so balanced digits of base ``2 D + 1`` are read back uniquely. A
   packed sum is at most ``V = D ((2D+1)^k - 1) / (2D) = ((2D+1)^k - 1) / 2``.
2. *No wrap.* One ciphertext adds an error ``|e| <= 21`` to each coefficient (SEAL draws from a centred binomial
   distribution of 42 coins; its clipped Gaussian alternative stays below 19.2) and rounding to integers at most one
   half. So coefficients of the sum stay below ``scale V + 21.5 M``, which must be less than ``q / 4`` (half of what
   decryption needs; SEAL's encoder wants the other bit).
3. *Rounding reads the right integer*, whatever noise was drawn: ``21.5 M / scale`` plus the error of four
   floating-point transforms is below one half. Each transform has a relative error of at most ``log2(N) η`` in the
   2-norm, ``η = 7 u``, ``u = 2^-53`` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., theorem 24.2),
   so together at most ``4 log2(N) η sqrt(N) V`` in a coefficient; at most 1/8 is admitted.
4. *Margin.* One half is at least ``2^10`` standard deviations of that noise, in case a build of SEAL draws otherwise.

Security: ``log2 q`` stays within the table of the Homomorphic Encryption Standard for 128 bits, ternary secrets (one
bit below it at degree 2048). SEAL checks the table when the context is made. One prime suffices: additions need no key
switching.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from privacy.aggregation.base import AggregationError

# Homomorphic Encryption Standard (Albrecht et al., 2018), table 1: largest modulus, in bits, at 128-bit classical
# security with ternary secrets and error of standard deviation 3.2, by ring degree; at 2048 one bit less than its 54,
# which later estimates put at the edge of 128 bits.
MAX_MODULUS_BITS = {1024: 27, 2048: 53, 4096: 109, 8192: 218, 16384: 438}
MAX_PRIME_BITS = 60
MIN_PRIME_BITS = 20  # SEAL finds no primes that are 1 modulo 2N much below
ERROR_BOUND = 21.5
ERROR_STD = math.sqrt(42 / 4 + 1 / 12)  # centred binomial of 42 coins, and rounding
MARGIN_BITS = 10
_TRANSFORM_ERROR = 7 * 2.0**-53
_TRANSFORMS = 4
_MAX_TRANSFORM_SHARE = 0.125
SEED_BYTES = 64


@dataclass(frozen=True)
class CKKSParameters:
    """Encryption parameters for sums of at most ``cohort`` vectors of ``length`` integers.

    Attributes:
        length: values of a vector.
        cohort: most vectors that are added up.
        value_bound: largest absolute value of a summand.
        degree: ring degree ``N``.
        prime_bits: bits of the one prime ``q``.
        scale_bits: log2 of the scale.
        values_per_coefficient: packed values, ``k``.
    """

    length: int
    cohort: int
    value_bound: int
    degree: int
    prime_bits: int
    scale_bits: int
    values_per_coefficient: int

    @classmethod
    def derive(cls, *, length: int, cohort: int, value_bound: int) -> CKKSParameters:
        """The parameters of least traffic, up and down together, that are exact and secure.

        Raises:
            AggregationError: none are.
        """
        return _least_traffic(length, cohort, value_bound)

    def problems(self) -> list[str]:
        """What keeps these parameters from being exact or secure; empty if nothing does."""
        limit = min(MAX_PRIME_BITS, MAX_MODULUS_BITS.get(self.degree, 0))
        checks = {
            f"log2 q = {self.prime_bits} exceeds {limit} bits, the most for degree {self.degree} at 128-bit security": (
                self.prime_bits <= limit
            ),
            f"sums need a modulus of {self._needed_modulus_bits():.1f} bits": (
                self.prime_bits >= self._needed_modulus_bits()
            ),
            f"floating-point error up to {self.transform_error:.3g}": self.transform_error <= _MAX_TRANSFORM_SHARE,
            f"noise and floating point add up to {self.worst_error:.3g}, not below one half": self.worst_error < 0.5,
            f"one half is only 2^{self.margin_bits:.1f} standard deviations": self.margin_bits >= MARGIN_BITS,
        }
        return [problem for problem, fine in checks.items() if not fine]

    @property
    def digit_bound(self) -> int:
        """Largest absolute sum of one value, ``D``."""
        return self.cohort * self.value_bound

    @property
    def base(self) -> int:
        """Base of the digits that values are packed in."""
        return 2 * self.digit_bound + 1

    @property
    def packed_bound(self) -> int:
        """Largest absolute packed sum, ``V``."""
        return int((self.base**self.values_per_coefficient - 1) // 2)

    @property
    def coefficients(self) -> int:
        """Coefficients that a vector needs."""
        return math.ceil(self.length / self.values_per_coefficient)

    def chunk_lengths(self) -> list[int]:
        """Coefficients used in each ciphertext of a vector."""
        return [min(self.degree, self.coefficients - start) for start in range(0, self.coefficients, self.degree)]

    @property
    def update_bytes(self) -> int:
        """Exact size of a protected vector: a seed and the used coefficients of each ciphertext."""
        return sum(SEED_BYTES + packed_size(used, self.prime_bits) for used in self.chunk_lengths())

    @property
    def aggregate_bytes(self) -> int:
        """Exact size of a sum over the whole cohort: the used coefficients, and a seed for each summand."""
        return sum(self.cohort * SEED_BYTES + packed_size(used, self.prime_bits) for used in self.chunk_lengths())

    @property
    def noise_std(self) -> float:
        """Standard deviation of the error of a sum, in units of the values."""
        return ERROR_STD * math.sqrt(self.cohort) / 2.0**self.scale_bits

    @property
    def margin_bits(self) -> float:
        """log2 of the standard deviations that one half is."""
        return math.log2(0.5 / self.noise_std)

    @property
    def transform_error(self) -> float:
        """Bound on the error of the floating-point transforms, in units of the values."""
        relative = _TRANSFORMS * math.log2(self.degree) * _TRANSFORM_ERROR
        return relative * math.sqrt(self.degree) * self.packed_bound

    @property
    def worst_error(self) -> float:
        """Bound on the whole error before rounding, whatever noise was drawn."""
        return self.cohort * ERROR_BOUND / 2.0**self.scale_bits + self.transform_error

    def _needed_modulus_bits(self) -> float:
        # SEAL's primes of b bits lie just below 2^b; 2^-10 of a bit covers the gap (checked when the context is made)
        largest = self.packed_bound * 2**self.scale_bits + math.ceil(ERROR_BOUND * self.cohort)
        return 2 + math.log2(largest) + 2**-10


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` words of ``bits`` bits, packed."""
    return (count * bits + 7) // 8


def _scale_bits(cohort: int) -> int:
    by_margin = math.log2(2.0 ** (MARGIN_BITS + 1) * ERROR_STD * math.sqrt(cohort))
    by_bound = math.log2(cohort * ERROR_BOUND / (0.5 - _MAX_TRANSFORM_SHARE))
    return math.ceil(max(by_margin, by_bound + 2**-10))


@lru_cache(maxsize=1024)  # whoever opens messages asks for those of one federation, again and again
def _least_traffic(length: int, cohort: int, value_bound: int) -> CKKSParameters:
    if min(length, cohort, value_bound) < 1:
        raise AggregationError("length, cohort and value bound must be at least 1")
    scale_bits = _scale_bits(cohort)
    found: list[CKKSParameters] = []
    for degree in MAX_MODULUS_BITS:
        for packed in range(1, 9):
            candidate = CKKSParameters(length, cohort, value_bound, degree, 0, scale_bits, packed)
            bits = max(MIN_PRIME_BITS, math.ceil(candidate._needed_modulus_bits()))
            candidate = CKKSParameters(length, cohort, value_bound, degree, bits, scale_bits, packed)
            if not candidate.problems():
                found.append(candidate)
    if not found:
        raise AggregationError(
            f"no 128-bit secure CKKS parameters add {cohort} values within ±{value_bound} exactly: "
            "lower aggregation.bits or the number of markets"
        )
    return min(found, key=lambda one: (one.update_bytes + one.aggregate_bytes, one.degree))
