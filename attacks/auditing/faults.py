"""Mechanisms broken on purpose: an audit that does not flag these proves nothing by its silence.

Each fault replaces a piece of a mechanism in this process for as long as a ``with`` block lasts; the claim stays what
it was. Nothing else may import this module but the audit of the audits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from attacks.auditing import audit
from attacks.auditing.gradients import CODEBOOK_SHAPE
from fedmm_secure.collaborative import dp_svd as dp_svd_embedding
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, QUANTIZER, SHARED_COUNTS, SHARED_GRAM
from privacy.aggregation import PairwiseMasks
from privacy.mechanisms import counts, dp_sgd, dp_svd
from privacy.mechanisms.clipped_sums import DenseSums
from privacy.mechanisms.factored_sums import FactoredSums, LayerGradient
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from privacy.mechanisms.sampling import PoissonSampler

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """A broken mechanism.

    Attributes:
        name: what is broken.
        stages: the stages that it breaks.
        kinds: kinds of canary that are meant to see it; empty for all.
        broken: a context in which it is.
    """

    name: str
    stages: tuple[str, ...]
    broken: Callable[[], Any]
    kinds: tuple[str, ...] = ()


@contextmanager
def noise_scaled(factor: float) -> Iterator[None]:
    """Every mechanism adds ``factor`` times the noise that it says it adds."""
    draw = NoiseSource.discrete_gaussian

    def less(source: NoiseSource, count: int, *, levels: int = LEVELS) -> Integers:
        return np.asarray(np.rint(factor * draw(source, count, levels=levels)), dtype=np.int64)

    with mock.patch.object(NoiseSource, "discrete_gaussian", less):
        yield


@contextmanager
def noise_on_spare_alone() -> Iterator[None]:
    """What measures the noise is drawn as it should be; what is released gets none."""
    draw = NoiseSource.gaussian_with_spare

    def none(source: NoiseSource, count: int, spare: int, *, levels: int = LEVELS) -> tuple[Integers, Integers]:
        values, left = draw(source, count, spare, levels=levels)
        return np.zeros_like(values), left

    with mock.patch.object(NoiseSource, "gaussian_with_spare", none):
        yield


@contextmanager
def unclipped(skipped: Callable[[Tensor], bool]) -> Iterator[None]:
    """Gradients of some parameters are left out of the norm and added as they are; nothing checks the integers."""

    def cut(sums: DenseSums, first: int, filled: Tensor) -> int:
        sums._load(first)
        units, norm = sums._units, sums._clip.norm
        clipped = torch.cat([torch.full((value.numel(),), not skipped(value)) for value in sums._parameters])
        factor = norm / (units * clipped).norm(dim=1).clamp(min=norm)
        units.mul_(torch.where(clipped, factor[:, None], 1.0) / sums._clip.step).trunc_()
        units[~sums._taken(first, filled)] = 0.0
        return 0

    def cut_layers(sums: FactoredSums, layers: Sequence[LayerGradient]) -> tuple[Tensor, Tensor]:
        norm, own = sums._clip.norm, [not skipped(layer.parameters[0]) for layer in layers]
        counted = [layer.squares() * clipped for layer, clipped in zip(layers, own, strict=True)]
        factor = norm / torch.stack(counted).sum(dim=0).sqrt().clamp(min=norm)
        for layer, clipped in zip(layers, own, strict=True):
            layer.cut((factor if clipped else torch.ones_like(factor)) / sums._clip.step)
        return factor, torch.ones_like(factor, dtype=torch.bool)

    with mock.patch.object(DenseSums, "_cut", cut), mock.patch.object(FactoredSums, "_cut", cut_layers):
        yield


@contextmanager
def gram_unscaled() -> Iterator[None]:
    """Rows of norm √2 enter the Gram matrix: one user moves it by 2, not by 1."""
    cut = counts.integer_rows

    def longer(rows: sparse.csr_array, grid: Grid) -> sparse.csr_array:
        return cut(rows, replace(grid, step=grid.step / np.sqrt(2.0), squared_bound=2 * grid.squared_bound))

    with mock.patch.object(dp_svd, "integer_rows", longer):
        yield


@contextmanager
def contributions_unbounded() -> Iterator[None]:
    """Every row of a user counts as one, however many the user has."""

    def every_row(market: Any, rows: Any, choices: Any, noise_multiplier: float = 1.0) -> sparse.csr_array:
        shape = (market.n_users, market.n_items)
        return sparse.csr_array((np.ones(len(rows)), (market.user[rows], market.item[rows])), shape=shape)

    def cut(rows: sparse.csr_array, grid: Grid) -> sparse.csr_array:
        return sparse.csr_array((grid.cut(rows.data), rows.indices, rows.indptr), shape=rows.shape)

    with (
        mock.patch.object(dp_svd_embedding, "contributions", every_row),
        mock.patch.object(counts, "integer_rows", cut),
    ):
        yield


@contextmanager
def one_batch() -> Iterator[None]:
    """The first batch, of fixed size, serves every step."""
    drawn: WeakKeyDictionary[dp_sgd.DPSGDTrainer, Tensor] = WeakKeyDictionary()

    def fixed(trainer: dp_sgd.DPSGDTrainer, sampler: PoissonSampler) -> Tensor:
        if trainer not in drawn:
            coins, n_examples = sampler.coins[0]
            size = round(trainer.choices.sampling_rate * n_examples)
            drawn[trainer] = torch.from_numpy(np.sort(np.argsort(coins.words(n_examples))[:size]))
        return drawn[trainer]

    with mock.patch.object(dp_sgd.DPSGDTrainer, "_sample", fixed):
        yield


@contextmanager
def seed_reused() -> Iterator[None]:
    """The noise of every round comes from the same key."""
    steps = dp_sgd.DPSGDTrainer.steps
    first: WeakKeyDictionary[dp_sgd.DPSGDTrainer, NoiseSource] = WeakKeyDictionary()

    def again(
        trainer: dp_sgd.DPSGDTrainer, examples: Any, count: int, noise: NoiseSource, *rest: Any, **named: Any
    ) -> dp_sgd.NoisedSteps:
        return steps(trainer, examples, count, first.setdefault(trainer, noise), *rest, **named)

    with mock.patch.object(dp_sgd.DPSGDTrainer, "steps", again):
        yield


@contextmanager
def masks_reused() -> Iterator[None]:
    """The masks of the first round serve every round."""
    expand = PairwiseMasks._expand

    def same(masks: PairwiseMasks, other: str, binding: Any, length: int) -> Any:
        return expand(masks, other, replace(binding, round=0, attempt=0), length)

    with mock.patch.object(PairwiseMasks, "_expand", same):
        yield


NOISY = (COUNTS, EMBEDDING, SHARED_COUNTS, SHARED_GRAM, QUANTIZER, CTR, audit.CHAIN)
SGD = (QUANTIZER, CTR)


def _codebook(value: Tensor) -> bool:
    return tuple(value.shape) == CODEBOOK_SHAPE


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("noise at .9", NOISY, lambda: noise_scaled(0.9)),
        Fault("noise at .8", NOISY, lambda: noise_scaled(0.8)),
        Fault("noise at half", NOISY, lambda: noise_scaled(0.5)),
        Fault("noise at a tenth", NOISY, lambda: noise_scaled(0.1)),
        Fault("no noise", NOISY, lambda: noise_scaled(0.0)),
        Fault("noise on spare coordinates alone", NOISY, noise_on_spare_alone),
        Fault("no clipping", SGD, lambda: unclipped(lambda value: True)),
        Fault("codebook not clipped", (QUANTIZER,), lambda: unclipped(_codebook), (audit.CODEBOOK,)),
        Fault("Gram sensitivity off by 2", (EMBEDDING,), gram_unscaled),
        Fault("contribution bound ignored", (COUNTS,), contributions_unbounded),
        Fault("one batch of fixed size reused", SGD, one_batch, (audit.GRADIENTS,)),
        Fault("seed reused across rounds", (QUANTIZER,), seed_reused, (audit.GRADIENTS,)),
        Fault("masks reused", (audit.MASKS,), masks_reused),
    )
}
