"""Canaries are said to go through the stage's own clipping and sampling: users' go through other code."""

from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer
from privacy.mechanisms.factored_sums import FactoredGradients, FactoredSums, LinearGradient
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare

EVERYBODY = mock.patch.object(DPSGDTrainer, "_sample", lambda self, coins, n: torch.arange(n))


def _cut(sums, layers):
    """As it is, but every gradient is a thousand times as long as the clipping norm lets it be."""
    clip = sums._clip
    norms = torch.stack([layer.squares() for layer in layers]).sum(dim=0).sqrt()
    for layer in layers:
        layer.cut(1000 * clip.norm / norms * clip.per_unit(shared=False))
    return norms, torch.ones(len(norms), dtype=torch.bool)


def shown(*faults):
    """Spare sums of four steps with a crowd of canaries, and how far the model went."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()

    def loss(model, rows):
        return model(rows).square().sum(dim=1)

    choices = DPSGD(noise_multiplier=1.0, clipping_norm=1.0, sampling_rate=0.1)
    gradients = FactoredGradients(model, loss, {nn.Linear: LinearGradient})
    trainer = DPSGDTrainer(gradients, torch.optim.SGD(model.parameters(), lr=0.1), choices, 400)
    spare = Spare(8, np.ones(4, dtype=bool), 600, bytes(32))
    for fault in faults:
        fault.start()
    try:
        found = trainer.steps(torch.randn(400, 4), 4, NoiseSource.from_seed(1), spare=spare)
    finally:
        for fault in faults:
            fault.stop()
    return found.spare, float((model.weight - before).norm())


@pytest.mark.parametrize("fault", [EVERYBODY, mock.patch.object(FactoredSums, "_cut", _cut)], ids=["sampler", "clip"])
def test_a_fault_in_what_users_go_through_moves_what_canaries_show(fault):
    (right, went), (wrong, went_wrong) = shown(), shown(fault)
    assert went_wrong > 2 * went  # the positive control
    assert not np.array_equal(right, wrong)
