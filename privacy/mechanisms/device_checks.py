"""What DP-SGD asks of a GPU, measured on it before any row is read: who fails trains on the processor.

Two properties carry the sensitivity of an exact sum. An example's integers are a function of that example alone, to the
last bit; and products of integers below 2^53 are exact in double precision. On a processor the first is measured slot
by slot (``per_example.equal_slots``), and the second is IEEE 754. A GPU shares a block out over thousands of threads,
by kernels that somebody chose for its model; so there both are put to the test with public numbers: an example beside
others, the same block twice, and integer products against integer arithmetic. Which kernel computes a block follows
from its shape and type, both public, never from what is in it: what holds for probes of a shape holds for rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from privacy.errors import InputError

_BITS = 26  # of each factor: products just below 2^52, whose sums need every bit
_SIDE = 64


class DeviceError(InputError):
    """A device on which a user's gradient would depend on others, or a sum would not be exact."""


def refuse_company(
    rows_of: Callable[[tuple[Tensor, ...]], Tensor], one: tuple[Tensor, ...], others: tuple[Tensor, ...], slots: Tensor
) -> None:
    """See that an example comes out the same whoever sits beside it, and time and again.

    Args:
        rows_of: from a block to numbers ``(size, …)``.
        one: a block of one public example in every slot.
        others: a block of another.
        slots: that are used, ascending.

    Raises:
        DeviceError: it does not.
    """
    alone = rows_of(one).detach()
    for offset in (0, 1):
        own = slots[offset::2]
        mixed = tuple(part.clone() for part in others)
        for part, example in zip(mixed, one, strict=True):
            part[own] = example[own]
        if not _same(rows_of(mixed).detach()[own], alone[own]):
            raise DeviceError(
                f"{alone.device}: computes an example otherwise beside others: a user's gradient would depend on them; "
                "set device: cpu"
            )


def refuse_inexact(device: torch.device, size: int) -> None:
    """See that products of integers in double precision, summed over ``size`` rows, are exact.

    Raises:
        DeviceError: they are not.
    """
    count = np.arange(size * _SIDE, dtype=np.int64)
    bits = max(1, (_BITS * 2 - size.bit_length()) // 2)  # so that a sum over all rows stays below 2^53
    left = ((count * 2654435761 + 12345) % 2**bits).reshape(size, _SIDE)
    right = ((count * 2246822519 + 54321) % 2**bits).reshape(size, _SIDE)
    found = torch.from_numpy(left).double().to(device).T @ torch.from_numpy(right).double().to(device)
    if not np.array_equal(found.cpu().numpy().astype(np.int64), left.T @ right):
        raise DeviceError(f"{device}: sums of integers in double precision are not exact; set device: cpu")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all bits are the same, those of what is not a number too."""
    return one.contiguous().cpu().numpy().tobytes() == other.contiguous().cpu().numpy().tobytes()
