import pytest

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.pipeline import run_pipeline
from tests.conftest import tiny


def federation_of(kind: str, markets: int = 3) -> Config:
    """Several repetitions: more messages, narrower intervals."""
    return tiny(
        data={"synthetic": {"markets": markets, "users": 80, "items": 40, "mean_interactions": 10}},
        aggregation={"kind": kind},
        seed=[0, 1],
        ctr={"baselines": []},
        federation={"rounds": 6, "allow_small_cohort": True},
    )


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Run directories by aggregator; ``two`` is a plaintext-free federation of two markets."""
    found = {}
    for name, kind, markets in (
        ("plaintext", "plaintext", 3),
        ("ckks", "ckks", 3),
        ("masked-ckks", "masked-ckks", 3),
        ("two", "ckks", 2),
    ):
        found[name] = tmp_path_factory.mktemp(name) / "run"
        config = federation_of(kind, markets)
        run_pipeline(config, prepare_markets(config.data), found[name])
    return found
