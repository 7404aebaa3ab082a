"""What goes wrong in the lines of DP-SGD that users go through goes wrong for canaries, and is found."""

import numpy as np
import pytest
import torch

from attacks.auditing.run_canaries import measure, noise_alone
from experiments.verification.canaries import spare_shape
from experiments.verification.meter import METER_LEVEL
from fedmm_secure.config import Config
from fedmm_secure.ctr.bags import Bags
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR
from fedmm_secure.federation.canaries import RunCanaries
from fedmm_secure.guarantee.canary_sums import SpareSums, levels, noised_steps
from fedmm_secure.quantization.rqvae import RQVAE, QuantizerShape
from fedmm_secure.quantization.training import PrivateSettings, QuantizerTrainer, TrainingSettings
from privacy.accounting.ledger import stage_group
from privacy.mechanisms.canary_gradients import Population
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.meter import meter_findings
from privacy.mechanisms.randomness import NoiseSource
from tests.attacks.auditing.test_run_canaries import PLAN, READINGS
from tests.broken_sgd import BROKEN

SMALL = Config.model_validate(
    {
        "data": {"synthetic": {}},
        "ctr": {"model": "deepfm", "features": ["item_codes", "counts"], "dim": 2, "hidden": [4], "dropout": 0.0},
    }
)
USERS = torch.nn.functional.normalize(torch.randn(400, 6, generator=torch.Generator().manual_seed(1)), dim=1)


def quantizer(choices, steps, noise, spare):
    """The RQ-VAE's own trainer, on users."""
    model = RQVAE(QuantizerShape(6, 8, 4, global_codes=5, local_codes=3), torch.Generator().manual_seed(0))
    trainer = QuantizerTrainer(model, USERS, USERS[:0], TrainingSettings(), PrivateSettings(choices, steps))
    return trainer.private_steps(steps, noise, spare=spare).spare, model.state_dict()


def ctr(choices, steps, noise, spare):
    """The released CTR model's own, on users' bags."""
    model = PrivateCTR(
        "deepfm", FeatureSchema(("item_global_code",), (3,), ("item_count",)), neural_choices(SMALL.ctr), 0
    )
    bags = Bags(
        (torch.arange(400)[:, None, None] % 3).expand(400, 2, 1),
        USERS[:, :2, None].clone(),
        torch.ones(400, 2),
        torch.ones(400, 2),
    )
    found = model.fit(bags, choices, steps, 1e-2, False, noise, spare=spare)
    return found.spare, model.network.state_dict()


TRAINED = {"quantizer/0": quantizer, "ctr/0": ctr}


def released(stage, canaries):
    """Spare sums of a stage in which users are, and the weights that it releases."""
    source = NoiseSource.from_seed(11)
    steps, count = spare_shape(PLAN, stage)
    spare = canaries.spare(count, PLAN, stage, 1)
    choices = noised_steps(PLAN, stage_group(stage))
    values, weights = TRAINED[stage](choices, steps, source, spare)
    return SpareSums(values, spare), torch.cat([value.flatten() for value in weights.values()])


def alarms(stage, found):
    """What verification says of it: canaries and the noise meter, each at its level for a run."""
    (one,) = measure(PLAN, {stage: [found]}, METER_LEVEL / 2 / 12)
    left = np.concatenate(noise_alone(PLAN, stage, [found])).ravel()
    meter = meter_findings(left, scale=scale(levels(PLAN, stage)), level=METER_LEVEL / 2 / READINGS)
    return [*([] if one.alarm is None else [one.alarm]), *(test.test for test in meter if test.alarm)]


@pytest.mark.parametrize("stage", TRAINED)
def test_what_is_broken_for_users_is_broken_for_canaries_and_found(stage):
    """Honest first: no alarm; then each fault, which also changes what is released of users."""
    canaries = RunCanaries(100, NoiseSource.from_seed(3).words(4).tobytes())
    honest, weights = released(stage, canaries)
    assert alarms(stage, honest) == []
    for name, broken in BROKEN.items():
        with broken():
            found, moved = released(stage, canaries)
        assert alarms(stage, found), name
        assert not torch.equal(moved, weights), name


@pytest.mark.parametrize("stage", TRAINED)
def test_users_and_canaries_are_added_up_in_the_same_blocks(stage, monkeypatch):
    """No line treats them apart: in one block of the stage there are both."""
    honest, mixed = Population.block, []

    def seen(population, chosen, size, slots):
        mixed.append({bool(one < population.n_users) for one in chosen})
        return honest(population, chosen, size, slots)

    monkeypatch.setattr(Population, "block", seen)
    released(stage, RunCanaries(100, bytes(32)))
    assert {True, False} in mixed
