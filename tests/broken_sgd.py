"""DP-SGD broken in the lines that users go through, for as long as a ``with`` block lasts."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import torch

from attacks.auditing.faults import noise_scaled
from privacy.mechanisms.clipped_sums import Clip
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.sampling import PoissonSampler


@contextmanager
def clipped(factor, *, checked=True):
    """Gradients keep ``factor`` times the norm, all of it where that is None; the integers' bound goes along or not."""
    factors, holds = Clip.factors, Clip.holds

    def longer(clip, norms):
        return torch.ones_like(norms) if factor is None else factor * factors(clip, norms)

    def unchecked(clip, squares):
        return torch.ones_like(holds(clip, squares))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Clip, "factors", longer))
        if not checked:
            stack.enter_context(mock.patch.object(Clip, "holds", unchecked))
        yield


def sampled(rate):
    """Samples of the rate that ``rate`` makes of the stated one."""
    draw = PoissonSampler.draw
    return mock.patch.object(
        PoissonSampler, "draw", lambda sampler: draw(replace(sampler, rate=min(1.0, rate(sampler.rate))))
    )


@contextmanager
def multiplied(factor):
    """Grids of a noise multiplier that is ``factor`` of what is stated: no value of the noise looks otherwise."""
    of = Grid.of

    def finer(noise_multiplier, sensitivity=1.0, *, levels=2):
        return of(factor * noise_multiplier, sensitivity, levels=levels)

    with mock.patch.object(Grid, "of", finer):
        yield


BROKEN = {
    "clipping left out": lambda: clipped(None, checked=False),
    "clipping left out, integers checked all the same": lambda: clipped(None),
    "clipping doubled": lambda: clipped(2.0, checked=False),
    "clipping doubled, integers checked all the same": lambda: clipped(2.0),
    "sampling rate doubled": lambda: sampled(lambda rate: 2.0 * rate),
    "everybody sampled": lambda: sampled(lambda rate: 1.0),
    "noise at .8": lambda: noise_scaled(0.8),
    "noise multiplier at .8": lambda: multiplied(0.8),
    "no noise": lambda: noise_scaled(0.0),
}
