"""Canaries in spare coordinates: users' own are the same to the last bit, whoever is in there."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from privacy.mechanisms.canary_gradients import CanaryGradients
from privacy.mechanisms.counts import canary_counts, noisy_counts
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, canary_steps
from privacy.mechanisms.dp_svd import (
    GRAM_LEVELS,
    canary_gram,
    canary_products,
    factors_by_subspace_iteration,
    noisy_gram,
)
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare

MEMBER = np.array([True, False, True, True, False, True])
SIDE = Spare(10, MEMBER, crowd=7, sampling=b"s" * 32)
CHOICES = DPSGD(1.3, 0.5, 0.4)
KEY = b"k" * 32


def rows():
    rng = np.random.default_rng(0)
    return sparse.csr_array(rng.random((40, 12)) * (rng.random((40, 12)) < 0.3))


def noise():
    return NoiseSource(KEY, seeded=False)


@pytest.mark.parametrize(("mechanism", "added"), [(noisy_counts, canary_counts), (noisy_gram, canary_gram)])
def test_counts_and_gram_are_the_same_bit_by_bit_and_spare_sums_have_the_canaries(mechanism, added):
    parts = [mechanism(rows(), 0.7, noise(), spare=spare) for spare in (10, SIDE)]
    without, beside = (part if isinstance(part, tuple) else (part.values, part.spare) for part in parts)
    assert without[0].tobytes() == beside[0].tobytes()
    assert (beside[1] - without[1]).tolist() == added(0.7, SIDE).tolist()
    assert np.flatnonzero(added(0.7, SIDE)).tolist() == [0, 2, 3, 5, 6]  # the crowd follows the last canary


def test_subspace_iterations_are_the_same_bit_by_bit_and_spare_sums_have_the_canaries():
    plain, found = (factors_by_subspace_iteration(rows(), 3, 0.7, 4, noise(), spare=spare) for spare in (10, SIDE))
    assert plain.factors.tobytes() == found.factors.tobytes()
    assert plain.eigenvalues.tobytes() == found.eigenvalues.tobytes()
    added = canary_products(0.7, 4, SIDE)
    assert (found.spare - plain.spare).tolist() == added.tolist()
    assert np.flatnonzero(added[0]).tolist() == [0, 2, 3, 5, 6]
    one = canary_products(0.7, 1, Spare(1, np.array([True])))[0, 0]
    assert 1 - 1e-3 < one / Grid.of(0.7).squared_bound ** 0.5 <= 1


def quantizer(spare):
    shape = QuantizerShape(6, 8, 4, global_codes=5, local_codes=3)
    model = RQVAE(shape, torch.Generator().manual_seed(0))
    users = torch.nn.functional.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    trainer = QuantizerTrainer(model, users, users[:0], TrainingSettings(), PrivateSettings(CHOICES, 3, spare=10))
    found = trainer.private_steps(3, noise(), spare=spare)
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()], found.spare


def dense(spare):
    gradients = CanaryGradients(20, CHOICES.clipping_norm)
    parameter = gradients.parameters[0]
    trainer = DPSGDTrainer(gradients, torch.optim.SGD([parameter], lr=0.1), CHOICES, 20)
    found = trainer.steps(torch.arange(20), 3, noise(), spare=10 if spare is None else spare)
    return [parameter.detach().numpy().tobytes()], found.spare


@pytest.mark.parametrize("train", [quantizer, dense])
def test_a_model_is_the_same_bit_by_bit_and_spare_sums_have_the_sampled_canaries(train):
    (without, left), (beside, found) = train(None), train(SIDE)
    assert without == beside
    assert (found - left).tolist() == canary_steps(CHOICES, 3, SIDE).tolist()


class Constant:
    """Gradients that are the same for all examples, and one row in memory."""

    def __init__(self):
        self.parameters = [torch.nn.Parameter(torch.zeros(3))]

    def __call__(self, batch):
        self.parameters[0].grad_sample = torch.ones(3).expand(len(batch[0]), 3)
        return torch.zeros(len(batch[0]))


def test_users_keep_gradients_that_are_one_row_in_memory():
    released = []
    for spare in (10, SIDE):
        gradients = Constant()
        trainer = DPSGDTrainer(gradients, torch.optim.SGD(gradients.parameters, lr=0.1), CHOICES, 20)
        trainer.steps(torch.zeros(20, 1), 3, noise(), spare=spare)
        released.append(gradients.parameters[0].detach())
    assert torch.equal(*released)


def test_a_canary_weighs_what_a_user_may_and_no_more():
    one = Spare(1, np.array([True]), sampling=b"s" * 32)
    grid, gram = Grid.of(0.7), Grid.of(0.7, levels=GRAM_LEVELS)
    for weight, bound in (
        (canary_counts(0.7, one)[0], grid.squared_bound),
        (canary_gram(0.7, one)[0], gram.squared_bound),
    ):
        assert 1 - 1e-3 < weight / bound**0.5 <= 1
    every = DPSGD(1.3, 0.5, 1.0)
    for clipping in ("flat", "automatic"):
        steps = canary_steps(DPSGD(1.3, 0.5, 1.0, clipping), 2, one)
        assert 1 - 1e-3 < steps[0, 0] / Grid.of(every.noise_multiplier).squared_bound ** 0.5 <= 1


def test_canaries_are_sampled_by_coins_of_their_own():
    """False-alarm rate 2e-6 each: binomial counts of 400 canaries over 50 steps, and of pairs in the same step."""
    side = Spare(401, np.ones(400, dtype=bool), sampling=b"t" * 32)
    drawn = np.array([np.isin(np.arange(400), sampled) for sampled in side.samples(0.3, 50)])
    assert stats.binomtest(int(drawn.sum()), drawn.size, 0.3).pvalue > 2e-6
    both = drawn[:, :200] & drawn[:, 200:]
    assert stats.binomtest(int(both.sum()), both.size, 0.09).pvalue > 2e-6


def test_a_crowd_needs_a_coordinate():
    with pytest.raises(ValueError, match="6 canaries and a crowd"):
        Spare(6, MEMBER, crowd=1)
