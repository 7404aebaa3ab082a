"""The contract of a CTR model, which every kind meets: a new one is tested here by having a name."""

from pathlib import Path

import numpy as np
import pytest

from fedmm_secure.config.choices import MODELS
from fedmm_secure.config.sections import CTRConfig
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.averaged import AveragedModel
from fedmm_secure.ctr.models.build import family_of
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR
from privacy.foreign import ForeignFileError

SCHEMA = FeatureSchema(("code",), (4,), ("signal", "noise"))
CONFIG = CTRConfig(model="deepfm", features=("scores",), dim=2, hidden=(4,), max_epochs=3)
WHERE = Path("models/m0/ctr-0")
AVERAGED = "an average of two"


def examples(seed, n=400):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 2))
    label = (rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * numbers[:, 0]))).astype(np.float64)
    return Labelled(Features(rng.integers(0, 4, (n, 1)), numbers), label)


TRAIN, VALID = ExampleSource([lambda epoch: examples(0)]), examples(1)


def untrained(kind, seed=0):
    if kind != AVERAGED:
        return family_of(kind).make(kind, SCHEMA, family_of(kind).grid(CONFIG)[0], seed)
    members = [
        family_of("boosted").make("boosted", half, family_of("boosted").grid(CONFIG)[0], seed) for half in HALVES
    ]
    return AveragedModel(members, HALVES)


HALVES = (FeatureSchema(("code",), (4,), ("signal",)), FeatureSchema((), (), ("noise",)))


@pytest.fixture(scope="module", params=[*MODELS, AVERAGED])
def fitted(request):
    return request.param, untrained(request.param).fit(TRAIN, VALID, TRAIN)


def test_it_learns_and_gives_probabilities(fitted):
    _, model = fitted
    found = model.predict(VALID.features)
    assert found.shape == (len(VALID),)
    assert found.dtype == np.float64
    assert ((found > 0.0) & (found < 1.0)).all()
    assert np.corrcoef(found, VALID.features.numbers[:, 0])[0, 1] > 0.5
    assert 0.5 < model.validation_auc_ <= 1.0


def test_the_same_again_by_its_seed(fitted):
    kind, model = fitted
    again = untrained(kind).fit(TRAIN, VALID, TRAIN)
    np.testing.assert_array_equal(again.predict(VALID.features), model.predict(VALID.features))


def test_a_pair_is_scored_by_itself(fitted):
    _, model = fitted
    part = Features(VALID.features.categories[:7], VALID.features.numbers[:7])
    np.testing.assert_allclose(model.predict(part), model.predict(VALID.features)[:7], atol=1e-6)


def test_a_file_gives_the_same_model(fitted):
    kind, model = fitted
    copy = untrained(kind, seed=9)
    copy.read(model.write(), WHERE)
    np.testing.assert_array_equal(copy.predict(VALID.features), model.predict(VALID.features))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04"])
def test_what_is_no_model_is_refused_and_named(fitted, data):
    kind, _ = fitted
    with pytest.raises(ForeignFileError, match="models/m0/ctr-0"):
        untrained(kind).read(data, WHERE)


def test_every_family_is_tuned_as_often():
    assert len({len(family_of(kind).grid(CONFIG)) for kind in MODELS}) == 1


@pytest.mark.parametrize("kind", MODELS)
def test_a_family_refuses_the_choices_of_another(kind):
    other = next(
        choices
        for name in MODELS
        for choices in family_of(name).grid(CONFIG)[:1]
        if family_of(name) is not family_of(kind)
    )
    with pytest.raises(TypeError, match=f"{kind} does not take"):
        family_of(kind).make(kind, SCHEMA, other, 0)


@pytest.mark.parametrize("kind", MODELS)
def test_what_trains_privately_is_what_the_traits_say(kind):
    if not MODELS[kind].trains_privately:
        with pytest.raises(ValueError, match="cannot train with DP-SGD"):
            PrivateCTR(kind, SCHEMA, neural_choices(CONFIG), 0)
        return
    model, copy = (PrivateCTR(kind, SCHEMA, neural_choices(CONFIG), seed) for seed in (0, 1))
    copy.read(model.write(), WHERE)
    np.testing.assert_array_equal(copy.predict(VALID.features), model.predict(VALID.features))
