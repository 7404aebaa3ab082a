"""What tests do to have accountants answer sooner changes no answer."""

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from opacus.accountants.analysis import rdp

from tests.accounting_cache import deltas_at_once, library_deltas


@pytest.mark.parametrize("adjacency", [AdjacencyType.ADD, AdjacencyType.REMOVE])
@pytest.mark.parametrize(("noise", "rate"), [(0.4, 0.5), (0.96, 0.2), (3.0, 0.01), (20.0, 0.9), (1.2, 1.0)])
def test_deltas_at_once_are_the_librarys_to_the_last_bit(noise, rate, adjacency):
    loss = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=adjacency)
    bounds = loss.connect_dots_bounds()
    edge = np.log1p(-rate) if rate < 1 else 0.0  # where sampled losses end: at and beside it
    epsilons = np.linspace(bounds.epsilon_lower, bounds.epsilon_upper, 997)
    epsilons = np.sort(np.concatenate([epsilons, [0.0, edge, -edge, np.nextafter(edge, 9), np.nextafter(-edge, -9)]]))
    found = deltas_at_once(loss, epsilons)
    assert np.array_equal(found, library_deltas(loss, epsilons))
    assert found.min() < 1e-6 < 1e-3 < found.max()


def test_a_kept_moment_is_the_librarys():
    assert rdp._compute_rdp(0.2, 1.1, 2.5) == rdp._compute_rdp.__wrapped__(0.2, 1.1, 2.5)
    assert rdp._compute_rdp(0.2, 1.1, 2.5) != rdp._compute_rdp(0.2, 1.2, 2.5)
