import pytest

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.pipeline import run_pipeline
from tests.conftest import tiny
from tests.faults import LEAST
from tests.released import made_once


def federation_of(kind: str, markets: int = 3) -> Config:
    """Several repetitions: more messages, narrower intervals."""
    return tiny(
        data={"synthetic": {"markets": markets, "users": 80, "items": 40, "mean_interactions": 10}},
        aggregation={"kind": kind},
        seed=[0, 1],
        ctr=LEAST,
        federation={"rounds": 6, "allow_small_cohort": True},
    )


RUNS = {"plaintext": ("plaintext", 3), "ckks": ("ckks", 3), "masked-ckks": ("masked-ckks", 3), "two": ("ckks", 2)}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Run directories by aggregator; ``two`` is a plaintext-free federation of two markets."""

    def make(folder):
        for name, (kind, markets) in RUNS.items():
            config = federation_of(kind, markets)
            run_pipeline(config, prepare_markets(config.data), folder / name)

    folder = made_once(tmp_path_factory, "federations", make)
    return {name: folder / name for name in RUNS}
