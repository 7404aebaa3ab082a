"""When what a run states is what is computed here again.

A digit that nobody compares carries whatever its writer likes: a tolerance of a part in a hundred thousand leaves 30
bits of each number to rows. So on a machine of the run's kind, with its code, nothing may differ, to the last bit. On
others rounding differs, and a number may be few units in the last place away; figures that long computations end in are
stated at few digits for that reason, and have no others to hide in. Where such digits differ, ``not checked`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.verification.evidence import Evidence
from experiments.verification.platform import same_machine
from fedmm_secure.guarantee.statement import STATED_DIGITS, stated
from privacy.arrays import Array

ULPS = 16  # units in the last place that a short computation may be away on another machine: five bits
_STATED_APART = 100.0 * 10.0**-STATED_DIGITS  # relative; a stated figure may be one of as many
_ROUNDED = (
    "last digits of metrics and first lines: not what is computed on this machine, which is not of the run's kind"
)


def same_values(evidence: Evidence) -> Callable[[Any, Any], bool]:
    """Whether two JSON values are the same computation's: what was expected here, and what was found."""
    exact = same_machine(evidence)

    def same(expected: Any, found: Any) -> bool:
        if not isinstance(expected, float):
            return type(expected) is type(found) and bool(expected == found)
        if type(found) is not float or not same_numbers(expected, found, exact=exact):
            return False
        if not same_numbers(expected, found, exact=True):
            evidence.leave_open(_ROUNDED)
        return True

    return same


def same_numbers(expected: float, found: float, *, exact: bool) -> bool:
    """Equal to the last bit, sign of zero included; if not ``exact``, also what rounding elsewhere may come to."""
    if expected.hex() == found.hex():
        return True
    if exact:
        return False
    if same_arrays(np.array(expected), np.array(found), exact=False):
        return True
    return stated(found) == found and abs(found - expected) <= _STATED_APART * abs(expected)


def same_arrays(expected: Array, found: Array, *, exact: bool) -> bool:
    """Equal byte by byte; if not ``exact``, within ``ULPS`` in each value."""
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        return False
    if expected.tobytes() == found.tobytes():
        return True
    if exact or expected.dtype.kind != "f" or not np.isfinite(found).all():
        return False
    room = ULPS * np.spacing(np.maximum(np.abs(expected), np.abs(found)))
    return bool((np.abs(expected - found) <= room).all()) and bool((np.signbit(expected) == np.signbit(found)).all())
