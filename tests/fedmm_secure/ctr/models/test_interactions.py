"""Dropout from a generator's bits: the stated share is left out, what is kept is scaled, and nothing else differs."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedmm_secure.ctr.models.interactions import RectifiedDropout, perceptron, with_fast_dropout


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_stated_share_is_left_out_and_the_rest_scaled(rate):
    layer, inputs = RectifiedDropout(rate, np.random.default_rng(0)), torch.ones(200, 500, requires_grad=True)
    found = layer(inputs)
    kept = found != 0.0
    left_out = inputs.numel() - int(kept.sum())
    assert stats.binomtest(left_out, inputs.numel(), rate).pvalue > 1e-4
    torch.testing.assert_close(found[kept], torch.full((int(kept.sum()),), 1.0 / (1.0 - rate)), rtol=1e-3, atol=0.0)
    found.sum().backward()
    torch.testing.assert_close(inputs.grad, found.detach())
    assert not torch.equal(layer(inputs) != 0.0, kept)


def test_what_is_negative_stays_out_and_predictions_drop_nothing():
    layer, inputs = RectifiedDropout(0.3, np.random.default_rng(0)), torch.linspace(-1.0, 1.0, 101)
    found = layer(inputs)
    assert (found[inputs <= 0.0] == 0.0).all()
    torch.testing.assert_close(layer.eval()(inputs), torch.relu(inputs))
    torch.testing.assert_close(RectifiedDropout(0.0, np.random.default_rng(0))(inputs), torch.relu(inputs))
    assert RectifiedDropout(1.0 - 1e-9, np.random.default_rng(0))(inputs).isfinite().all()


def test_a_network_keeps_its_weights_and_their_names():
    stack, _ = perceptron(5, (4, 3), 0.4, torch.Generator().manual_seed(0))
    names, expected = list(stack.state_dict()), stack.eval()(torch.ones(2, 5))
    with_fast_dropout(stack, np.random.default_rng(0))
    assert list(stack.state_dict()) == names
    assert not any(isinstance(layer, nn.Dropout | nn.ReLU) for layer in stack)
    torch.testing.assert_close(stack.eval()(torch.ones(2, 5)), expected)
