import numpy as np

from attacks.properties.worlds import FEW, MANY, PROPERTY, _draw, infer_property, told_apart
from attacks.retraining.pipelines import Retraining
from tests.conftest import tiny


def test_worlds_that_differ_are_told_apart_and_others_are_not():
    rng = np.random.default_rng(0)
    truth = np.arange(40) % 2 == 1
    noise = rng.normal(size=(40, 12))
    assert told_apart(noise + 2.0 * truth[:, None], truth).low > 0.85
    nothing = told_apart(noise, truth)
    assert nothing.low <= 0.5 <= nothing.high


def test_every_world_has_as_many_users_and_its_share_of_the_kind():
    rng = np.random.default_rng(0)
    kind, there = np.arange(100) < 40, np.arange(100) != 7
    for share in (FEW, MANY):
        own = _draw(kind, there, share, rng)
        assert own.sum() in (54, 55, 56)  # 39 of the kind are 70 %, rounded twice
        assert abs(own[kind].sum() / own.sum() - share) < 0.02
        assert not own[7]


def test_models_of_a_market_tell_how_many_of_its_users_are_active(tiny_markets):
    """Its item factors do: the worlds' users have other items in other numbers."""
    retraining = Retraining(
        tiny(federation={"rounds": 2}), tiny_markets, "m0", ("fedmm",), {}, {m: {} for m in tiny_markets}
    )
    found = {one.view: one for one in infer_property(retraining, 16, 0, np.random.default_rng(0))}
    assert set(found) == {"market", "release"}
    assert all((one.property, one.worlds) == (PROPERTY, 16) for one in found.values())
    assert found["release"].accuracy.value > 0.6
