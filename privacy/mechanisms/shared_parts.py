"""One party's part of a noisy sum that several parties add up: integers in one public unit, and a part of the noise.

``norm`` is the unit of all: how many integer steps one user's largest contribution is long. With parts of noise of the
sampler's scale ``S``, of which ``h`` stay in the sum whatever colluders subtract, the sum carries noise of standard
deviation ``sqrt(h) S`` at least, so a noise multiplier ``σ`` over that contribution needs ``norm = sqrt(h) S / σ``.
A sum of discrete Gaussians of scale ``S`` is one of scale ``sqrt(h) S``, pointwise to within ``2 exp(-π² S²)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from privacy.arrays import FloatArray, IntArray
from privacy.mechanisms.counts import integer_rows
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import LEVELS, NoiseSource

# Weights of the integers of an upper triangle: 7² <= 2 · 5², so the triangle of z zᵀ, which has each pair once, is at
# most 5 ‖z‖² long, as long as 5 z zᵀ; off the diagonal, noise then counts 5/7 of what it does on it.
DIAGONAL, OFF_DIAGONAL = 5, 7


@dataclass(frozen=True)
class Part:
    """What one party adds to a sum.

    Attributes:
        values: integers with noise, ``(length,)``; private until enough parties' are added up.
        spare: ``(spare,)``, noise alone.
    """

    values: IntArray
    spare: IntArray


def rows_part(rows: sparse.csr_array, norm: float, noise: NoiseSource, *, spare: int = 0) -> Part:
    """Column sums ``(n_columns,)`` of users' rows clipped to norm 1, in units of ``1 / norm``, and a part of the noise.

    A user's integers have a Euclidean norm of at most ``norm``, checked exactly.
    """
    grid = Grid(1.0 / norm, math.floor(norm * norm))
    total = np.asarray(integer_rows(rows, grid).sum(axis=0, dtype=np.int64)).ravel()
    return _with_noise(total, noise, spare)


def rows_of_sum(total: IntArray, norm: float) -> FloatArray:
    """Real values of a sum of ``rows_part``; post-processing."""
    return np.asarray(total / norm, dtype=np.float64)


def gram_part(rows: sparse.csr_array, norm: float, noise: NoiseSource, *, spare: int = 0) -> Part:
    """Upper triangle, row by row, of ``XᵀX`` of users' rows clipped to norm 1, with a part of the noise.

    A user's integers ``z`` add ``5 z_i²`` on the diagonal and ``7 z_i z_j`` above it: of norm ``5 ‖z‖² <= norm``.
    """
    roots = _roots(norm)
    integers = integer_rows(rows, roots)
    gram = np.asarray((integers.T @ integers).todense(), dtype=np.int64)
    upper = np.triu_indices(len(gram))
    return _with_noise(gram[upper] * _weights(len(gram)), noise, spare)


def gram_of_sum(total: IntArray, norm: float, n: int) -> FloatArray:
    """The symmetric matrix ``(n, n)`` of a sum of ``gram_part``; post-processing."""
    found = np.zeros((n, n))
    found[np.triu_indices(n)] = total / _weights(n) * _roots(norm).step ** 2
    return found + np.triu(found, 1).T


def norm_of(noise_multiplier: float, honest_parts: int) -> float:
    """The unit in which ``honest_parts`` parts of noise add up to a noise multiplier."""
    return math.sqrt(honest_parts) * scale(LEVELS) / noise_multiplier


def noise_of_sum(norm: float, parts: int) -> float:
    """Standard deviation of the noise in a sum of ``parts`` parties, in the units of one user's largest contribution.

    Of a Gram matrix: on its diagonal; off it, ``DIAGONAL / OFF_DIAGONAL`` of that.
    """
    return math.sqrt(parts) * scale(LEVELS) / norm


def _roots(norm: float) -> Grid:
    """The grid of rows whose weighted products are at most ``norm`` long."""
    return Grid(math.sqrt(DIAGONAL / norm), math.floor(norm / DIAGONAL))


def _weights(n: int) -> IntArray:
    """Of each value of an upper triangle of ``(n, n)``."""
    rows, columns = np.triu_indices(n)
    return np.where(rows == columns, DIAGONAL, OFF_DIAGONAL)


def _with_noise(total: IntArray, noise: NoiseSource, spare: int) -> Part:
    drawn, left = noise.gaussian_with_spare(len(total), spare)
    return Part(total + drawn, left)
