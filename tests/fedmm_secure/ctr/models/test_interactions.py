"""Dropout from a generator's bits: the stated share is left out, what is kept is scaled, and nothing else differs."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fedmm_secure.ctr.models.interactions import EmbeddingTable, RectifiedDropout, perceptron, with_fast_parts
from fedmm_secure.ctr.models.networks import NeuralCTR


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
    with_fast_parts(stack, np.random.default_rng(0))
    assert list(stack.state_dict()) == names
    assert not any(isinstance(layer, nn.Dropout | nn.ReLU) for layer in stack)
    torch.testing.assert_close(stack.eval()(torch.ones(2, 5)), expected)


@pytest.mark.parametrize(("n", "dim"), [(3, 16), (5000, 16), (5000, 1)])
def test_a_table_has_the_rows_and_gradients_of_an_embedding_to_the_last_bit(n, dim):
    generator = torch.Generator().manual_seed(0)
    plain = nn.Embedding(300, dim)
    table = EmbeddingTable(nn.Parameter(plain.weight.detach().clone()))
    places, upstream = torch.randint(300, (n, 4), generator=generator), torch.randn(n, 4, dim, generator=generator)
    for part in (plain, table):
        part(places).backward(upstream)
    assert torch.equal(plain(places), table(places))
    assert torch.equal(plain.weight.grad, table.weight.grad)


def test_the_embeddings_of_a_network_become_tables_and_its_weights_stay_where_they_are():
    network = NeuralCTR("deepfm", (7, 5), 0, dim=4, hidden=(4,), dropout=0.2, generator=torch.Generator())
    names, before = list(network.state_dict()), network.embedding.weight.data_ptr()
    with_fast_parts(network, np.random.default_rng(0))
    assert {type(network.embedding), type(network.first)} == {EmbeddingTable}
    assert network.embedding.weight.data_ptr() == before
    assert list(network.state_dict()) == names


def test_units_are_left_out_by_the_bits_of_the_generator_in_their_order():
    layer, inputs = RectifiedDropout(0.25, np.random.default_rng(3)), torch.rand(8, 4) + 1.0
    drawn = np.frombuffer(np.random.default_rng(3).bytes(2 * 32), dtype=np.int16).reshape(8, 4)
    np.testing.assert_array_equal((layer(inputs) == 0.0).numpy(), drawn < 2**14 - 2**15)
    odd = RectifiedDropout(0.25, np.random.default_rng(3))(torch.ones(3, 3))
    np.testing.assert_array_equal((odd == 0.0).numpy().ravel(), drawn.ravel()[:9] < 2**14 - 2**15)
