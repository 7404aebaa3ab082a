import pytest

from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.errors import ConfigError, LostResultError
from fedmm_secure.federation.canaries import (
    RunCanaries,
    committed_canaries,
    kept_nonce,
    opened_nonce,
    run_canaries,
    stated_canaries,
)
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import Ledger
from tests.conftest import tiny


@pytest.fixture
def config():
    return tiny().model_copy(update={"audit": AuditConfig(canaries=50, nonce="ab" * 32)})


def test_a_nonce_is_committed_to_kept_and_opened_once(config, tmp_path):
    opening = committed_canaries(config, {}, tmp_path)
    assert committed_canaries(config, opening, tmp_path) == opening  # a start that goes on draws no other
    nonce = kept_nonce(opening, tmp_path)
    assert opened_nonce(opening, {"canaries": nonce.hex()}) == nonce
    assert stated_canaries(config, opening) == opening
    assert nonce.hex() not in str(opening)


@pytest.mark.parametrize("said", ["00" * 32, "no hexadecimal", None, 7])
def test_another_nonce_opens_nothing(config, tmp_path, said):
    opening = committed_canaries(config, {}, tmp_path)
    assert opened_nonce(opening, {"canaries": said}) is None
    assert opened_nonce(opening, None) is None
    assert opened_nonce(opening, {"canaries": kept_nonce(opening, tmp_path).hex().upper()}) is None


def test_a_nonce_that_is_lost_stops_the_run(config, tmp_path):
    opening = committed_canaries(config, {}, tmp_path)
    (tmp_path / "canaries.key").unlink()
    with pytest.raises(LostResultError, match="nonce of the canaries is gone"):
        kept_nonce(opening, tmp_path)


def test_a_market_that_is_closed_goes_on_with_what_it_opened(config, tmp_path):
    """Killed between two markets' last lines: the first has erased its nonce, and says it."""
    ledger, folder = Ledger(tmp_path / "ledger" / "m0.jsonl"), RunDirectory(tmp_path).charges("m0")
    ledger.open(committed_canaries(config, {}, folder))
    (before,) = run_canaries(config, "run", {"m0": ledger}, RunDirectory(tmp_path)).values()
    ledger.close({"canaries": kept_nonce(ledger.opening, folder).hex()})
    (folder / "canaries.key").unlink()
    assert run_canaries(config, "run", {"m0": ledger}, RunDirectory(tmp_path)) == {"m0": before}


def test_coins_follow_from_both_nonces_market_and_run(config):
    other = config.model_copy(update={"audit": AuditConfig(canaries=50, nonce="cd" * 32)})
    keys = [
        RunCanaries.of(chosen, market, run, nonce).key
        for chosen, market, run, nonce in (
            (config, "m0", "run", b"n" * 32),
            (other, "m0", "run", b"n" * 32),
            (config, "m1", "run", b"n" * 32),
            (config, "m0", "again", b"n" * 32),
            (config, "m0", "run", b"m" * 32),
        )
    ]
    assert len(set(keys)) == 5


def test_a_configuration_without_noise_has_no_canaries():
    with pytest.raises(ConfigError, match=r"audit\.canaries needs privacy\.epsilon"):
        tiny(audit={"canaries": 10})
