import numpy as np
import pytest
import torch

from attacks.inversion.reconstruction import (
    Released,
    match,
    match_gradient,
    prototypes,
    reconstruct_from_codes,
    reconstruct_from_prototypes,
    recover_histories,
)
from fedmm_secure.quantization.codes import decode, unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import QuantizerTrainer, TrainingSettings

DIM = 6


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def trained():
    """An RQ-VAE fitted to users in eight tight groups, and those users."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(8, DIM)))
    users = unit(centres[rng.integers(0, 8, 300)] + 0.02 * rng.normal(size=(300, DIM)))
    shape = QuantizerShape(input_dim=DIM, hidden_dim=32, latent_dim=4, global_codes=8, local_codes=4)
    model = RQVAE(shape, torch.Generator().manual_seed(0))
    trainer = QuantizerTrainer(model, unit_rows(users), torch.zeros(0, DIM), TrainingSettings(local_epochs=150))
    trainer.train_round(torch.Generator().manual_seed(1), warm_up=False)
    return model, users


def test_codes_rebuild_embeddings_that_a_prior_does_not_know(trained):
    model, users = trained
    codes = model.assign(unit_rows(users)).numpy()
    prior = unit(np.random.default_rng(1).normal(size=(50, DIM)))
    found = reconstruct_from_codes(Released(model, np.eye(DIM)), codes, users, prior)
    assert found.cosine.value > 0.9
    assert found.advantage.low > 0.3
    assert found.advantage.value == pytest.approx(found.cosine.value - found.prior.value)
    assert found.identified.value > found.chance
    assert found.matched.value > 0.8 > found.prior_matched.value


def test_users_who_are_all_alike_are_not_identified(trained):
    model, users = trained
    alike = np.repeat(users[:1], 50, axis=0)
    codes = model.assign(unit_rows(alike)).numpy()
    found = reconstruct_from_codes(Released(model, np.eye(DIM)), codes, alike, users[100:150])
    assert found.cosine.value > 0.9
    assert found.identified.value == pytest.approx(1 / 50) == found.chance


def test_prototypes_match_the_users_they_were_learnt_from(trained):
    model, users = trained
    prior = unit(np.random.default_rng(1).normal(size=(50, DIM)))
    found = reconstruct_from_prototypes(Released(model, np.eye(DIM)), users, prior, np.random.default_rng(2))
    assert found.advantage.low > 0.0
    assert found.identified is None


def test_there_is_no_advantage_where_there_is_no_knowledge(trained):
    _, users = trained
    rng = np.random.default_rng(3)
    guess, prior = (unit(rng.normal(size=(80, DIM))) for _ in range(2))
    found = match("guess", guess, users, prior, rng)
    assert found.advantage.low <= 0.0 <= found.advantage.high


def test_prototypes_are_the_decodings_of_all_pairs(trained):
    model, _ = trained
    found = prototypes(model)
    assert found.shape == (32, DIM)
    np.testing.assert_allclose(found[5], decode(model, np.array([[1, 1]]))[0], atol=1e-6)


def test_gradient_matching_finds_the_direction_of_what_moved_the_codebook():
    """One user who is alone with a codeword moves it towards that user's own latent."""
    shape = QuantizerShape(input_dim=DIM, hidden_dim=16, latent_dim=4, global_codes=4, local_codes=2)
    start = RQVAE(shape, torch.Generator().manual_seed(4))
    user = unit_rows(np.random.default_rng(5).normal(size=(1, DIM)))
    with torch.no_grad():
        latent = start.encode(user)
        nearest = int(start.global_codebook(latent).argmin())
        movement = torch.zeros(4, 4)
        movement[nearest] = 0.1 * (latent[0] - start.global_codebook.codewords[nearest])
    rebuilt = match_gradient(start, movement.numpy(), 8, torch.Generator().manual_seed(6))
    with torch.no_grad():
        latents = start.encode(unit_rows(rebuilt))
        codes = start.global_codebook(latents).argmin(1)
    assert (codes == nearest).any()
    closeness = torch.nn.functional.cosine_similarity(latents[codes == nearest], latent)
    assert float(closeness.max()) > 0.9


def test_codes_name_items_that_popularity_does_not(trained):
    model, users = trained
    items = unit(np.random.default_rng(7).normal(size=(60, DIM)))
    history = users @ items.T > np.quantile(users @ items.T, 0.9, axis=1, keepdims=True)
    codes = model.assign(unit_rows(users)).numpy()
    found, both = recover_histories(Released(model, items), codes, history, history.sum(0).astype(float))
    assert found.attack == "codes"
    assert both.attack == "codes and popularity"
    assert found.advantage.low > 0.0
    assert found.precision.value > 0.4


def test_codes_that_say_nothing_name_no_items(trained):
    model, users = trained
    rng = np.random.default_rng(8)
    history = rng.random((len(users), 60)) < 0.1
    codes = model.assign(unit_rows(users)).numpy()
    found, _ = recover_histories(Released(model, unit(rng.normal(size=(60, DIM)))), codes, history, np.zeros(60))
    assert found.precision.low <= 0.1 <= found.precision.high + 0.02
