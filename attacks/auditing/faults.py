"""Mechanisms broken on purpose: an audit that does not flag these proves nothing by its silence.

Each fault replaces a piece of a mechanism in this process for as long as a ``with`` block lasts; the claim stays what
it was. Nothing else may import this module but the audit of the audits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from scipy import sparse
from torch import Tensor

from attacks.auditing import audit
from attacks.auditing.gradients import CODEBOOK
from fedmm_secure.collaborative import private
from privacy.aggregation import PairwiseMasks
from privacy.mechanisms import counts, dp_sgd, dp_svd
from privacy.mechanisms.noise import NoiseSource


@dataclass(frozen=True)
class Fault:
    """A broken mechanism.

    Attributes:
        name: what is broken.
        stages: the stages that it breaks.
        kinds: kinds of canary that can see it; empty for all.
        broken: a context in which it is.
    """

    name: str
    stages: tuple[str, ...]
    broken: Callable[[], Any]
    kinds: tuple[str, ...] = ()


@contextmanager
def noise_scaled(factor: float) -> Iterator[None]:
    """Every mechanism adds ``factor`` times the noise that it says it adds."""
    gaussian, add_noise = counts.gaussian, dp_sgd._SharedNoiseOptimizer.add_noise

    def less(shape: tuple[int, ...], scale: float, noise: NoiseSource) -> np.ndarray:
        return gaussian(shape, factor * scale, noise)

    def add_less(optimizer: dp_sgd._SharedNoiseOptimizer) -> None:
        with mock.patch.object(optimizer, "noise_multiplier", factor * optimizer.noise_multiplier):
            add_noise(optimizer)

    with (
        mock.patch.object(counts, "gaussian", less),
        mock.patch.object(dp_svd, "gaussian", less),
        mock.patch.object(dp_sgd._SharedNoiseOptimizer, "add_noise", add_less),
    ):
        yield


@contextmanager
def unclipped(skipped: Callable[[Tensor], bool]) -> Iterator[None]:
    """Gradients of some parameters are left out of the norm and added as they are."""

    def accumulate(optimizer: DPOptimizer) -> None:
        clipped = [value for value in optimizer.params if not skipped(value)]
        norms = [value.grad_sample.flatten(1).norm(dim=1) for value in clipped]
        for value in optimizer.params:
            samples = value.grad_sample
            factor = torch.ones(len(samples))
            if not skipped(value) and norms:
                length = torch.stack(norms).norm(dim=0)
                factor = (optimizer.max_grad_norm / (length + 1e-6)).clamp(max=1.0)
            total = torch.einsum("i,i...->...", factor, samples)
            value.summed_grad = total if value.summed_grad is None else value.summed_grad + total

    with mock.patch.object(DPOptimizer, "clip_and_accumulate", accumulate):
        yield


@contextmanager
def gram_unscaled() -> Iterator[None]:
    """Rows of norm √2 enter the Gram matrix: one user moves it by 2, not by 1."""
    clip = counts.clip_rows

    def longer(rows: sparse.csr_array, norm: float = 1.0) -> sparse.csr_array:
        return sparse.csr_array(clip(rows, norm) * np.sqrt(2.0))

    with mock.patch.object(dp_svd, "clip_rows", longer):
        yield


@contextmanager
def contributions_unbounded() -> Iterator[None]:
    """Every row of a user counts as one, however many the user has."""

    def every_row(market: Any, rows: Any, choices: Any, noise_multiplier: float = 1.0) -> sparse.csr_array:
        shape = (market.n_users, market.n_items)
        return sparse.csr_array((np.ones(len(rows)), (market.user[rows], market.item[rows])), shape=shape)

    with (
        mock.patch.object(private, "contributions", every_row),
        mock.patch.object(counts, "clip_rows", lambda rows, norm=1.0: rows),
    ):
        yield


@contextmanager
def one_batch() -> Iterator[None]:
    """The first batch, of fixed size, serves every step."""
    drawn: WeakKeyDictionary[dp_sgd.DPSGDTrainer, Tensor] = WeakKeyDictionary()

    def fixed(trainer: dp_sgd.DPSGDTrainer, n_examples: int) -> Tensor:
        if trainer not in drawn:
            size = round(trainer.choices.sampling_rate * n_examples)
            order = torch.randperm(n_examples, generator=trainer._noise.generator)
            drawn[trainer] = torch.zeros(n_examples, dtype=torch.bool).index_fill_(0, order[:size], True)
        return drawn[trainer]

    with mock.patch.object(dp_sgd.DPSGDTrainer, "_sample", fixed):
        yield


@contextmanager
def seed_reused() -> Iterator[None]:
    """The noise of every round comes from the same seed."""
    steps = dp_sgd.DPSGDTrainer.steps

    def again(trainer: dp_sgd.DPSGDTrainer, *arguments: Any, **named: Any) -> dp_sgd.StepStatistics:
        trainer._noise.generator.manual_seed(trainer._noise.generator.initial_seed())
        return steps(trainer, *arguments, **named)

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


NOISY = ("counts", "embedding", "quantizer", "ctr", "chain")
SGD = ("quantizer", "ctr")


def _codebook(value: Tensor) -> bool:
    return tuple(value.shape) == CODEBOOK


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("noise at half", NOISY, lambda: noise_scaled(0.5)),
        Fault("noise at a tenth", NOISY, lambda: noise_scaled(0.1)),
        Fault("no noise", NOISY, lambda: noise_scaled(0.0)),
        Fault("no clipping", SGD, lambda: unclipped(lambda value: True)),
        Fault("codebook not clipped", ("quantizer",), lambda: unclipped(_codebook), (audit.CODEBOOK,)),
        Fault("Gram sensitivity off by 2", ("embedding",), gram_unscaled),
        Fault("contribution bound ignored", ("counts",), contributions_unbounded),
        Fault("one batch of fixed size reused", SGD, one_batch, (audit.SUMS,)),
        Fault("seed reused across rounds", ("quantizer",), seed_reused, (audit.SUMS,)),
        Fault("masks reused", ("masks",), masks_reused),
    )
}
