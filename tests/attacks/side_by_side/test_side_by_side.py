"""Models trained side by side are the models trained one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from attacks.side_by_side.ctr import fit_together
from attacks.side_by_side.modules import SideBySide
from attacks.side_by_side.quantizers import federate_together, mean_movement, train_local_together
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.pipeline import train_federated
from fedmm_secure.quantization.build import train_local_quantizer
from tests.conftest import tiny


def networks(n):
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)) for _ in range(n)]


def loss(forward, x, y):
    return ((forward(x)[:, 0] - y) ** 2).mean()


def steps(n, count=5, rows=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, rows, 3, generator=generator), torch.randn(n, rows, generator=generator)) for _ in range(count)
    ]


def by_one(module, batches, index):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for x, y in batches:
        optimizer.zero_grad()
        loss(module, x[index], y[index]).backward()
        optimizer.step()
    return module.state_dict()


def test_a_step_of_the_stack_is_a_step_of_each():
    stack = SideBySide(networks(3), learning_rate=0.01)
    batches = steps(3)
    for batch in batches:
        stack.step(loss, batch)
    for index, module in enumerate(networks(3)):
        for name, value in by_one(module, batches, index).items():
            torch.testing.assert_close(stack.state_dict(index)[name], value)


def test_modules_that_are_kept_keep_their_optimizer():
    stack = SideBySide(networks(3), learning_rate=0.01)
    batches = steps(3, count=6)
    for batch in batches[:3]:
        stack.step(loss, batch)
    stack.keep(torch.tensor([2, 0]))
    for x, y in batches[3:]:
        stack.step(loss, [x[[2, 0]], y[[2, 0]]])
    for slot, index in enumerate((2, 0)):
        for name, value in by_one(networks(3)[index], batches, index).items():
            torch.testing.assert_close(stack.state_dict(slot)[name], value)


def test_local_quantizers_trained_together_are_those_trained_alone(tiny_markets):
    config = tiny()
    embeddings = [fit_embedding(tiny_markets[name], config.embedding) for name in ("m0", "m0")]
    for embedding in embeddings:
        embedding.user_factors_[:20] = 0.0  # users who are left out of a shadow pipeline, and teach neither anything
    stacked = train_local_together(config, embeddings, "m0", 0)
    alone = train_local_quantizer(config, embeddings[0], "m0", 0)
    for model in stacked:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_a_federation_side_by_side_is_the_federation(tiny_markets, tmp_path):
    config = tiny(aggregation={"kind": "plaintext"})
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    federation = open_federation(config, tiny_markets, tmp_path)
    models = train_federated(federation, 0, embeddings)
    stacked = federate_together(config, {name: [found] for name, found in embeddings.items()}, 0, copies=2)
    for name, model in models.items():
        for copy in stacked[name].models():
            for key, value in model.state_dict().items():
                torch.testing.assert_close(copy.state_dict()[key], value, atol=1e-4, rtol=1e-4)


def test_movements_are_bounded_as_the_markets_bound_them(tiny_markets):
    config = tiny(aggregation={"norm": 0.005})
    embeddings = {name: [fit_embedding(found, config.embedding)] for name, found in tiny_markets.items()}
    norms = []

    def watch(round, movements):
        norms.extend(np.linalg.norm(moved) for market in movements.values() for moved in market)
        return mean_movement(round, movements)

    federate_together(config, embeddings, 0, copies=1, combine=watch)
    assert max(norms) == pytest.approx(0.005, rel=1e-2)


SCHEMA = FeatureSchema(("a",), (5,), ("x",))


def examples(n, seed):
    rng = np.random.default_rng(seed)
    features = Features(rng.integers(0, 5, (n, 1)), rng.normal(size=(n, 1)))
    return Labelled(features, (features.numbers[:, 0] + rng.normal(size=n) > 0).astype(float))


@pytest.mark.parametrize("refit", [False, True])
def test_models_fitted_together_stop_and_predict_as_if_alone(refit):
    """Without dropout, and where batches divide the rows evenly, only rounding differs."""
    choices = NeuralChoices(dim=4, hidden=(8,), dropout=0.0, max_epochs=12, patience=2)
    parts = [(examples(4096, seed), examples(300, 10 + seed), examples(4096, 20 + seed)) for seed in range(3)]
    together = [NeuralModel("deepfm", SCHEMA, choices, seed) for seed in range(3)]
    alone = [NeuralModel("deepfm", SCHEMA, choices, seed) for seed in range(3)]

    def source(found):
        return ExampleSource([lambda epoch: found])

    refits = [source(found) for _, _, found in parts] if refit else None
    fit_together(together, [source(found) for found, _, _ in parts], [valid for _, valid, _ in parts], refits)
    for index, (train, valid, more) in enumerate(parts):
        alone[index].fit(source(train), valid, source(more) if refit else None)
        assert together[index].epochs_ == alone[index].epochs_
        assert together[index].validation_auc_ == pytest.approx(alone[index].validation_auc_, abs=1e-3)
        left, right = (model.predict(valid.features) for model in (together[index], alone[index]))
        np.testing.assert_allclose(left, right, atol=2e-3)
