"""What floating point gives away (Mironov, CCS 2012), and that releases lie on public grids instead."""

import numpy as np
import pytest
import torch
from scipy import sparse

from privacy.mechanisms.counts import noisy_counts
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer
from privacy.mechanisms.dp_svd import noisy_gram
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource

SIGMA, RUNS = 0.65, 4000


def event(value):
    """Smaller than 1/2, and no multiple of 2^-53: a sum with a count of 1 is rounded to coarser numbers than that."""
    return (np.abs(value) < 0.5) & ((value * 2.0**53) % 1.0 != 0.0)


def floating_point(count):
    """A count with noise in floating point, as the first version published it."""
    noise = torch.randn(RUNS, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    return count + SIGMA * noise.numpy()


def test_one_event_tells_presence_from_absence_in_floating_point():
    """No (ε, δ) with δ below a third holds for the broken copy, whatever its noise."""
    assert event(floating_point(0)).mean() > 1 / 3
    assert event(floating_point(1)).mean() == 0


def published(present):
    """The product's counts of many items, each of which has one user or none."""
    rows = sparse.csr_array(sparse.eye_array(RUNS)) if present else sparse.csr_array((1, RUNS))
    return noisy_counts(rows, SIGMA, NoiseSource.from_seed(int(present))).values


def test_counts_lie_on_one_grid_whoever_is_present():
    step = Grid.of(SIGMA).step
    integers = {}
    for present in (False, True):
        values = published(present)
        integers[present] = np.rint(values / step)
        np.testing.assert_array_equal(integers[present] * step, values)
    # the numbers that may appear are the same, down to the last digit: each is about as odd as the other
    for digit in range(8):
        shares = [((values // 2**digit) % 2).mean() for values in integers.values()]
        assert abs(shares[0] - shares[1]) < 5 * (0.5 / RUNS) ** 0.5  # five standard errors; the seeds are fixed


def test_the_event_has_no_power_over_the_product():
    """Its probabilities differ no more than those of any event may: by what the noise's size says."""
    without, with_user = (event(published(present)).mean() for present in (False, True))
    epsilon_of_one = 0.5 / SIGMA**2 + 3.0 / SIGMA  # log-likelihood ratio within three standard deviations
    for left, right in ((without, with_user), (with_user, without)):
        assert left <= np.exp(epsilon_of_one) * right + 0.01


def test_gram_matrices_lie_on_a_grid():
    rows = sparse.csr_array(np.random.default_rng(0).normal(size=(20, 5)))
    released, _ = noisy_gram(rows, SIGMA, NoiseSource.from_entropy())
    units = released * 2 / Grid.of(SIGMA, levels=3).step  # symmetric: the mean of two entries
    np.testing.assert_allclose(units, np.rint(units), atol=1e-3)


class Fixed:
    def __init__(self):
        self.parameters = [torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))]

    def __call__(self, batch):
        self.parameters[0].grad_sample = batch[0].clone()
        return torch.zeros(len(batch[0]))


@pytest.mark.parametrize("n", [0, 9])
def test_noised_gradients_lie_on_a_grid(n):
    gradients = Fixed()
    choices, parameter = DPSGD(SIGMA, 0.3, 0.5), gradients.parameters[0]
    trainer = DPSGDTrainer(gradients, torch.optim.SGD([parameter], lr=0.0), choices, 10)
    seen = []
    rows = torch.randn(n, 50, generator=torch.Generator().manual_seed(0))
    trainer.steps(rows, 3, NoiseSource.from_entropy(), lambda: seen.append(parameter.grad.clone()))
    for noised in seen:
        units = noised.numpy() * choices.expected_batch(10) / Grid.of(SIGMA, 0.3).step
        np.testing.assert_allclose(units, np.rint(units), atol=1e-6)
