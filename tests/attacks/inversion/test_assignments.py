import numpy as np
import pytest
import torch

from attacks.inversion.assignments import infer_usage
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import QuantizerTrainer, TrainingSettings

SHAPE = QuantizerShape(input_dim=6, hidden_dim=16, latent_dim=4, global_codes=40, local_codes=4)


@pytest.fixture(scope="module")
def market():
    """Users, the public start, the codebook's movement over three rounds, and the users' codes at the end."""
    rng = np.random.default_rng(0)
    users = rng.normal(size=(6, 6))[rng.integers(0, 6, 200)] + 0.1 * rng.normal(size=(200, 6))
    start, model = (RQVAE(SHAPE, torch.Generator().manual_seed(0)) for _ in range(2))
    trainer = QuantizerTrainer(model, unit_rows(users), torch.zeros(0, 6), TrainingSettings(batch_size=32))
    movements = []
    for round in range(3):
        before = model.global_codebook.codewords.detach().clone()
        trainer.train_round(torch.Generator().manual_seed(round), warm_up=False)
        movements.append((model.global_codebook.codewords.detach() - before).double().numpy())
    return users, start, np.stack(movements), model.assign(unit_rows(users))[:, 0].numpy()


def test_movement_gives_away_which_codes_are_used(market):
    users, start, movements, codes = market
    found = infer_usage(start, movements, users, codes, np.random.default_rng(1))
    assert found.used_auc > 0.9
    assert found.rank_correlation.low > 0.0
    assert found.sharing > 0.4


def test_noise_gives_nothing_away(market):
    users, start, movements, codes = market
    rng = np.random.default_rng(2)
    noise = rng.normal(size=movements.shape) * 10.0
    found = infer_usage(start, noise, users, codes, rng)
    assert found.rank_correlation.low <= 0.0 <= found.rank_correlation.high
    true = infer_usage(start, movements, users, codes, rng)
    assert found.sharing < true.sharing
    assert found.sharing_prior == true.sharing_prior  # the prior reads no movement
