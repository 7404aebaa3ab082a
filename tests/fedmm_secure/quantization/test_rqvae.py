import numpy as np
import pytest
import torch

from fedmm_secure.quantization.codebook import Codebook
from fedmm_secure.quantization.codes import assign_codes, codebook_use, unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, LossWeights, QuantizerShape
from fedmm_secure.quantization.training import QuantizerTrainer, TrainingSettings

SHAPE = QuantizerShape(input_dim=8, hidden_dim=16, latent_dim=4, global_codes=6, local_codes=5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=1):
    return torch.nn.functional.normalize(torch.randn(n, 8, generator=generator(seed)), dim=1)


@pytest.fixture
def model():
    return RQVAE(SHAPE, generator())


def test_distances_are_squared_euclidean():
    book = Codebook(6, 4, radius=1.0, generator=generator())
    x = torch.randn(10, 4, generator=generator(2))
    torch.testing.assert_close(book(x), torch.cdist(x, book.codewords).square(), rtol=1e-4, atol=1e-5)


def test_codes_are_the_nearest_codewords_layer_by_layer(model):
    x = rows(30)
    z = model.encode(x)
    first = torch.cdist(z, model.global_codebook.codewords).argmin(1)
    residual = z - model.global_codebook.codewords[first]
    second = torch.cdist(residual, model.local_codebook.codewords).argmin(1)
    torch.testing.assert_close(model.assign(x), torch.stack([first, second], 1))
    torch.testing.assert_close(model(x).codes, model.assign(x))


def test_a_code_depends_on_its_own_row_alone(model):
    x = rows(30)
    torch.testing.assert_close(model.assign(x[:1]), model.assign(x)[:1])


def test_the_straight_through_estimator_passes_gradients_to_the_encoder_unchanged(model):
    """Decoding gradients reach the encoder as if quantisation were the identity."""
    x = rows(5)
    z = model.encode(x).detach().requires_grad_()
    model.encode = lambda inputs: z
    quantized = model(x)
    through = torch.autograd.grad(quantized.reconstruction.sum(), z)[0]
    words = z - (z - _quantised(model, z)).detach()
    direct = torch.autograd.grad(((model.decoder(words) - x) ** 2).sum(), z)[0]
    torch.testing.assert_close(through, direct)


def _quantised(model, z):
    first = model.global_codebook(z).argmin(1)
    word = model.global_codebook.lookup(first)
    second = model.local_codebook(z - word).argmin(1)
    return word + model.local_codebook.lookup(second)


def test_the_reconstruction_does_not_move_codebooks_and_the_codebook_loss_moves_nothing_else(model):
    found = model(rows(20))
    found.reconstruction.sum().backward(retain_graph=True)
    assert model.global_codebook.codewords.grad is None
    model.zero_grad(set_to_none=True)
    found.codebook.sum().backward()
    assert model.global_codebook.codewords.grad is not None
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())


def test_initialisation_reads_no_data_and_is_the_same_everywhere():
    left, right = RQVAE(SHAPE, generator(7)), RQVAE(SHAPE, generator(7))
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    norms = left.global_codebook.codewords.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(6))


def test_training_reconstructs_and_uses_the_codebooks(tiny_markets):
    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(6, 8, generator=generator(3)), dim=1)
    x = torch.nn.functional.normalize(
        centres[torch.randint(0, 6, (400,), generator=generator(4))]
        + 0.1 * torch.randn(400, 8, generator=generator(5)),
        dim=1,
    )
    model = RQVAE(SHAPE, generator())
    trainer = QuantizerTrainer(model, x[:200], x[200:], TrainingSettings(local_epochs=60, batch_size=64))
    trainer.train_round(generator(6), warm_up=False)
    with torch.no_grad():
        found = model(x)
    assert float(found.reconstruction.mean()) < 0.15
    assert len(found.codes[:, 0].unique()) >= 4


def test_loss_weights_enter_the_total(model):
    found = model(rows(4), 0.2)
    assert found.entropy.min() > 0
    assert not model(rows(4)).entropy.any()
    weights = LossWeights(codebook=2.0, commitment=3.0, entropy=0.5)
    expected = found.reconstruction + 2 * found.codebook + 3 * found.commitment - 0.5 * found.entropy
    torch.testing.assert_close(found.total(weights), expected)


def test_use_and_perplexity_of_known_codes():
    found = codebook_use(np.array([0, 0, 1, 1]), 8)
    assert found.used == 2
    assert found.perplexity == pytest.approx(2.0)
    assert found.overlap == pytest.approx(0.5)
    skewed = codebook_use(np.array([0] * 99 + [1]), 8)
    assert 1.0 < skewed.perplexity < 1.1
    assert skewed.overlap == pytest.approx(0.99**2 + 0.01**2)


def test_unit_rows_keeps_zero_rows():
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_a_code_is_its_rows_alone_whoever_is_beside_it(model):
    """To the last bit: the kernels that multiply blocks of one shape treat every slot alike, here too."""
    users = np.random.default_rng(0).normal(size=(600, 8))
    whole = assign_codes(model, users, users[:0]).user
    np.testing.assert_array_equal(whole, model.assign(unit_rows(users)))
    order = np.random.default_rng(1).permutation(600)[:301]
    np.testing.assert_array_equal(assign_codes(model, users[order], users[:0]).user, whole[order])
    assert assign_codes(model, users[:0], users[:0]).user.shape == (0, 2)
