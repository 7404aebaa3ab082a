import json

import numpy as np
import pytest
import torch

from experiments.benchmarks import dp_sgd
from privacy.mechanisms.dp_sgd import DPSGD
from tests.command_line import fedmm


def test_every_way_takes_steps_and_is_held_against_one_without_privacy(capsys):
    status, out, _ = fedmm(capsys, "bench", "dp-sgd", "--batch=64", "--repeat=2", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["bench"] == "dp-sgd"
    ratios = {row["what"]: row["ratio"] for row in found["rows"]}
    assert len(ratios) == 7
    assert ratios[dp_sgd.ORDINARY] == 1.0
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in found["rows"])


@pytest.mark.parametrize("way", ["_hooks", "_ghost", "_functional"])
def test_other_ways_clip_as_ours_does(monkeypatch, way):
    """With hardly any noise, on all rows, each step moves the parameters as the exact one does."""
    rows = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    moved = []
    for make in (dp_sgd._ours, getattr(dp_sgd, way)):
        models = []

        def model(models=models):
            models.append(dp_sgd.RQVAE(dp_sgd.SHAPE, torch.Generator().manual_seed(1)))
            return models[-1]

        monkeypatch.setattr(dp_sgd, "_model", model)
        monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr=1.0: torch.optim.SGD(parameters, lr=1.0))
        choices = DPSGD(0.005, 0.05, 1.0)  # hardly any noise
        silence = (dp_sgd._Silence.from_entropy(),) if make is dp_sgd._ours else ()
        step = make(rows, choices, *silence)
        before = torch.cat([parameter.detach().flatten() for parameter in models[0].parameters()]).clone()
        step()
        moved.append((torch.cat([p.detach().flatten() for p in models[0].parameters()]) - before).numpy())
    assert np.linalg.norm(moved[0] - moved[1]) < 0.05 * np.linalg.norm(moved[0])
