"""Quick parts train as PyTorch's do: the same gradients, bit for bit; and dropout leaves out the stated share."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedmm_secure.ctr.models.interactions import perceptron
from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.quick import QuickEmbedding, QuickFieldPairs, RectifiedDropout, quicken


def bits(seed=0):
    return np.random.PCG64(seed)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_stated_share_is_left_out_and_the_rest_scaled(rate):
    layer, inputs = RectifiedDropout(rate, bits()), torch.ones(200, 500, requires_grad=True)
    found = layer(inputs.clone())
    kept = found != 0.0
    left_out = inputs.numel() - int(kept.sum())
    assert stats.binomtest(left_out, inputs.numel(), rate).pvalue > 1e-4
    torch.testing.assert_close(found[kept], torch.full((int(kept.sum()),), 1.0 / (1.0 - rate)), rtol=1e-3, atol=0.0)
    found.sum().backward()
    torch.testing.assert_close(inputs.grad, found.detach())
    assert not torch.equal(layer(inputs.clone()) != 0.0, kept)


def test_what_is_negative_stays_out_and_has_no_gradient():
    inputs = torch.linspace(-1.0, 1.0, 101, requires_grad=True)
    found = RectifiedDropout(0.3, bits())(inputs.clone())
    assert (found[inputs <= 0.0] == 0.0).all()
    found.sum().backward()
    assert torch.equal(inputs.grad > 0.0, found > 0.0)


def test_predictions_drop_nothing():
    inputs = torch.linspace(-1.0, 1.0, 101)
    torch.testing.assert_close(RectifiedDropout(0.3, bits()).eval()(inputs.clone()), torch.relu(inputs))
    torch.testing.assert_close(RectifiedDropout(0.0, bits())(inputs.clone()), torch.relu(inputs))
    assert RectifiedDropout(1.0 - 1e-9, bits())(inputs.clone()).isfinite().all()


def test_a_network_keeps_its_weights_and_their_names():
    stack, _ = perceptron(5, (4, 3), 0.4, generator())
    names, expected = list(stack.state_dict()), stack.eval()(torch.ones(2, 5))
    quicken(stack, np.random.default_rng(0))
    assert list(stack.state_dict()) == names
    assert not any(isinstance(layer, nn.Dropout | nn.ReLU) for layer in stack)
    torch.testing.assert_close(stack.eval()(torch.ones(2, 5)), expected)


@pytest.mark.parametrize("n_numbers", [0, 3])
@pytest.mark.parametrize("kind", ["logistic", "deepfm", "dcnv2", "autoint", "finalmlp"])
def test_gradients_are_pytorchs_to_the_last_bit(kind, n_numbers):
    """Rows that many examples share, where the order of a sum tells; no unit is left out."""
    sizes = {"dim": 6, "hidden": (8, 4), "dropout": 0.0}
    plain = NeuralCTR(kind, (5, 7), n_numbers, **sizes, generator=generator())
    quick = copy.deepcopy(plain)
    quicken(quick, np.random.default_rng(0))
    assert isinstance(quick.first, QuickEmbedding)
    assert kind != "deepfm" or isinstance(quick.pairs, QuickFieldPairs)
    categories = torch.stack([torch.randint(0, size, (900,), generator=generator(size)) for size in (5, 7)], dim=1)
    numbers = torch.randn(900, n_numbers, generator=generator(1))
    target = (torch.rand(900, generator=generator(2)) < 0.3).float()
    for network in (plain.eval(), quick.train()):
        nn.functional.binary_cross_entropy_with_logits(network(categories, numbers), target).backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in quick.named_parameters():
        assert (parameter.grad is None) == (gradients[name].grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name].grad), name
