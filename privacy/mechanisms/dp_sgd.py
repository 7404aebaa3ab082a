"""DP-SGD (Abadi et al., CCS 2016): Poisson samples, per-example clipping, exact integer sums, discrete Gaussian noise.

Every example's clipped gradient is cut to integers on a public grid, and their norm is checked exactly; sums are exact
whatever the order, so one example moves a sum by its own integers and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from dp_accounting.dp_event import DpEvent
from torch import Tensor, nn

from privacy.arrays import IntArray
from privacy.mechanisms.canary_gradients import MarkedFactors, MarkedGradients, Population, clipped_canary
from privacy.mechanisms.clipped_sums import EXACT, Clip, ClippedSums, DenseSums, ParameterSplit
from privacy.mechanisms.clipping import Clipping
from privacy.mechanisms.device_checks import refuse_inexact
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.events import dp_sgd_event
from privacy.mechanisms.factored_sums import FactoredGradients, FactoredSums
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.per_example import LANES, Batch, PerExampleGradients, equal_slots
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from privacy.mechanisms.sampling import PoissonSampler
from privacy.mechanisms.spare import Spare


@dataclass(frozen=True)
class DPSGD:
    """Choices of a DP-SGD stage.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: largest L2 norm that one example's gradient keeps.
        sampling_rate: probability with which each example enters a batch.
        clipping: ``flat`` scales down what exceeds the norm; ``automatic`` scales every gradient to about the norm
            (Bu, Wang, Zha, Karypis, "Automatic clipping", NeurIPS 2023). Sensitivity is the norm either way.
        largest_block: examples that are held in memory at a time, at most; None leaves it to how they are added up.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float
    clipping: Clipping = "flat"
    largest_block: int | None = None

    def event(self, steps: int) -> DpEvent:
        """What ``steps`` steps release."""
        return dp_sgd_event(self.noise_multiplier, self.sampling_rate, steps)

    def expected_batch(self, n_examples: int) -> int:
        """Divisor of noised sums: a public constant, whatever the batch drawn."""
        return max(1, round(self.sampling_rate * n_examples))

    def block(self, n_examples: int, largest: int) -> int:
        """Slots of a block: a whole number of blocks mostly fits a batch. Follows from public numbers alone."""
        largest, expected = self.largest_block or largest, self.expected_batch(n_examples)
        mostly, whole = expected + 3.0 * expected**0.5, LANES if largest % LANES == 0 else 8
        return int(whole * math.ceil(mostly / math.ceil(mostly / largest) / whole))


@dataclass(frozen=True)
class SharedGroup:
    """A parameter whose noised sum is handed out as integers, to be added to other parties' before it is used.

    Each party's noise on it is a part: only ``honest_parts`` of them together are what its sensitivity needs.

    Attributes:
        parameter: it gets no gradient here.
        step: grid unit of its gradient; the same for all parties.
        honest_parts: parties whose noise is in the sum after others may have subtracted theirs.
    """

    parameter: nn.Parameter
    step: float
    honest_parts: int

    @staticmethod
    def step_for(noise_multiplier: float, clipping_norm: float, honest_parts: int) -> float:
        """The grid unit at which ``honest_parts`` draws add up to ``noise_multiplier`` clipping norms.

        ``noise_multiplier`` is that of the most sensitive party. A sum of discrete Gaussians of scale S is one of scale
        ``sqrt(honest_parts) S``, pointwise to within ``2 exp(-π² S²)``: the argument of ``discrete_gaussian``'s levels.
        """
        return noise_multiplier * clipping_norm / (math.sqrt(honest_parts) * scale(LEVELS))


@dataclass(frozen=True)
class StepStatistics:
    """Private values of the steps just taken; they stay in the market's own log.

    Attributes:
        loss: mean loss per sampled example.
        clipped_fraction: share of sampled examples whose gradient exceeded the clipping norm.
        signal_to_noise: norm of the summed clipped gradients over the norm of the noise, root mean square.
    """

    loss: float
    clipped_fraction: float
    signal_to_noise: float


@dataclass(frozen=True)
class NoisedSteps:
    """Steps just taken.

    Attributes:
        statistics: private.
        spare: ``(steps, spare)``, noised sums of parameters that no user reaches, in grid units; public.
        shared: ``(steps, size)``, noised sums of the shared group in units of its step; private until enough parties'
            are added up. Empty without such a group.
    """

    statistics: StepStatistics
    spare: IntArray
    shared: IntArray


class DPSGDTrainer:
    """Takes noised steps on a model.

    Args:
        gradients: how gradients of single examples are computed.
        optimizer: what turns noised gradients into steps; post-processing.
        choices: clipping, noise and sampling.
        n_examples: number of privacy units, a public constant.
        shared: a parameter whose noise other parties complete; all others get the whole of it here.

    Raises:
        ValueError: so little noise that integers would not be exact.
    """

    def __init__(
        self,
        gradients: PerExampleGradients | FactoredGradients,
        optimizer: torch.optim.Optimizer,
        choices: DPSGD,
        n_examples: int,
        shared: SharedGroup | None = None,
    ) -> None:
        self.choices = choices
        self._optimizer = optimizer
        self._grid = Grid.of(choices.noise_multiplier, choices.clipping_norm)
        parts = shared.honest_parts if shared else 1
        # In units of the noise: a local integer weighs 1/S², a shared one 1/(h S²), for h parts add up to sqrt(h) S.
        # Σ local² / S² + Σ shared² / (h S²) <= 1 / noise_multiplier², times h S²:
        bound = math.floor(parts * (scale(self._grid.levels) / choices.noise_multiplier) ** 2)
        if bound >= EXACT / 2:
            raise ValueError(f"a noise multiplier of {choices.noise_multiplier} is too small for exact sums")
        self._gradients = gradients
        self._split = ParameterSplit.of(gradients.parameters, [] if shared is None else [shared.parameter])
        shared_step = shared.step if shared else self._grid.step
        self._clip = Clip(choices.clipping_norm, choices.clipping, self._grid.step, shared_step, parts, bound)
        self._expected, self._n_examples = choices.expected_batch(n_examples), n_examples
        self._slots: Tensor | None = None

    def steps(
        self,
        examples: Tensor | Batch,
        count: int,
        noise: NoiseSource,
        after: Callable[[], None] | None = None,
        *,
        spare: int | Spare = 0,
    ) -> NoisedSteps:
        """Take ``count`` steps on Poisson samples of ``examples (n_examples, …)``; ``after`` follows each step.

        ``noise`` serves these steps alone: the same source gives the same noise again. ``spare`` noised sums a step are
        those of parameters that do not exist, or that canaries alone reach.
        """
        side = Spare.of(spare)
        parts = examples if isinstance(examples, tuple) else (examples,)
        population, (sums, block) = Population.of(parts, side), self._summing(side.count)
        if self._slots is None:
            if parts[0].device.type != "cpu":
                refuse_inexact(parts[0].device, block)
            self._slots = equal_slots(sums.rows, population.probe, block)
        drawn, coins = noise.derive("noise"), noise.derive("sampling")
        sampler = PoissonSampler(self.choices.sampling_rate, [(coins, population.n_users), side.coins])
        own, last = self._split.n_local, self._split.n_local + side.count  # spare ones stand between local and shared
        losses, clipped, seen, signal = 0.0, 0, 0, 0.0
        spares, handed = [], []
        for _ in range(count):
            chosen = self._sample(sampler)
            of_users = int((chosen < population.n_users).sum())
            total = np.zeros(self._split.size + side.count, dtype=np.int64)
            found, over = 0.0, 0
            for start in range(0, len(chosen), len(self._slots)):
                part = chosen[start : start + len(self._slots)]
                slots = self._slots[: len(part)]
                loss, exceeding = sums.add(population.block(part, block, slots), slots, total)
                found, over = found + loss, over + exceeding
            losses, seen = losses + found, seen + of_users
            clipped += over - (len(chosen) - of_users)  # every canary exceeds the norm
            reached = np.concatenate([total[:own], total[last:]])  # by users
            signal += float(np.square(reached.astype(np.float64)).sum())
            values, left = drawn.gaussian_with_spare(self._split.size, side.count, levels=self._grid.levels)
            total += np.concatenate([values[:own], left, values[own:]])
            spares.append(total[own:last])
            handed.append(total[last:])
            self._set_gradients(total[:own])
            self._optimizer.step()
            if after is not None:
                after()
            self._optimizer.zero_grad()
        ratio = math.sqrt(signal / max(count * self._split.size, 1)) / scale(self._grid.levels)
        statistics = StepStatistics(losses / max(seen, 1), clipped / max(seen, 1), ratio)
        return NoisedSteps(statistics, np.reshape(spares, (count, side.count)), np.reshape(handed, (count, -1)))

    def _summing(self, spare: int) -> tuple[ClippedSums, int]:
        """What adds up a population with so many spare coordinates, and the slots of a block of it."""
        gradients, choices = self._gradients, self.choices
        if isinstance(gradients, FactoredGradients):
            block = choices.block(self._n_examples, FactoredSums.largest_block)
            factors = MarkedFactors(gradients, spare, choices.clipping_norm)
            return FactoredSums(factors, self._clip, self._split.beside(factors.spare), block), block
        block = choices.block(self._n_examples, DenseSums.largest_block)
        marked = MarkedGradients(gradients, spare, choices.clipping_norm)
        return DenseSums(marked, self._clip, self._split.beside(marked.spare), block), block

    def _sample(self, sampler: PoissonSampler) -> Tensor:
        """Positions of a Poisson sample."""
        return torch.from_numpy(sampler.draw())

    def _set_gradients(self, noised: IntArray) -> None:
        for parameter in self._split.shared:
            parameter.grad = None  # whatever an ordinary step left there: it is not stepped here
        gradient = torch.from_numpy(noised * (self._grid.step / self._expected))
        start = 0
        for parameter in self._split.local:
            part = gradient[start : start + parameter.numel()]
            parameter.grad = part.view_as(parameter).to(parameter)
            start += parameter.numel()


def canary_steps(choices: DPSGD, steps: int, spare: Spare) -> IntArray:
    """What canaries add to the spare values ``(steps, spare)`` of noised steps, in grid units."""
    grid = Grid.of(choices.noise_multiplier, choices.clipping_norm)
    bound = math.floor((scale(grid.levels) / choices.noise_multiplier) ** 2)
    each = clipped_canary(Clip(choices.clipping_norm, choices.clipping, grid.step, grid.step, 1, bound))
    sampled = spare.samples(choices.sampling_rate, steps)
    return np.stack([each * np.bincount(chosen, minlength=spare.count) for chosen in sampled])
