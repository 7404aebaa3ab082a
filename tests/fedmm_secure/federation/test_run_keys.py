import json
from dataclasses import asdict

import pytest

from fedmm_secure.config.audit import AuditConfig, CardConfig
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.run_keys import make_run_key, read_run_key, write_run_key
from fedmm_secure.storage import run_directory
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.fingerprints import RunKey
from privacy.accounting.ledger import Ledger
from privacy.aggregation.identities import Identity
from privacy.files import KeyFileError
from tests.conftest import tiny
from tests.released import PRIVATE

KEY = RunKey.of(b"a" * 32, "run", "ab cd")


def test_a_key_is_read_as_it_was_written_and_for_its_owner_alone(tmp_path):
    write_run_key(tmp_path / "run.key", KEY)
    assert read_run_key(tmp_path / "run.key") == KEY
    assert (tmp_path / "run.key").stat().st_mode & 0o077 == 0
    with pytest.raises(KeyFileError, match="exists already"):
        write_run_key(tmp_path / "run.key", KEY)


@pytest.mark.parametrize(
    "changed",
    [{"of_run": "ab"}, {"of_reader": 7}, {"more": 1}, {"of_run": "x" * 64}],
    ids=lambda field: next(iter(field)),
)
def test_anything_else_takes_one_line(tmp_path, changed):
    write_run_key(tmp_path / "run.key", KEY)
    fields = json.loads((tmp_path / "run.key").read_text()) | changed
    (tmp_path / "run.key").write_text(json.dumps(fields))
    with pytest.raises(KeyFileError, match="is no key of a run"):
        read_run_key(tmp_path / "run.key")


def test_keys_of_runs_and_readers_say_nothing_of_each_other_nor_of_what_is_locked():
    account = b"a" * 32
    made = [RunKey.of(account, run, reader) for run in ("r", "s") for reader in ("x", "y")]
    assert len({key.of_run for key in made}) == len({key.of_reader for key in made}) == 2
    assert not {key.of_run for key in made} & {key.of_reader for key in made}
    assert RunKey.of(account, "r", "r").of_run != RunKey.of(account, "r", "r").of_reader


def test_where_nothing_is_compared_with_a_key_there_is_none(tmp_path):
    plain = tiny()
    run_directory.create(tmp_path / "plain", plain)
    with pytest.raises(ConfigError, match="no auditor replays this run"):
        make_run_key(tmp_path / "plain")
    card = CardConfig(**asdict(Identity.generate("auditor").card))
    settings = tiny(privacy={"epsilon": 8.0}, embedding=PRIVATE).model_copy(update={"audit": AuditConfig(replay=card)})
    run_directory.create(tmp_path / "run", settings)
    Ledger(RunDirectory(tmp_path / "run").ledger("m0")).open({"run": "r", "market": "m0"})
    with pytest.raises(ConfigError, match="its rows are generated, and compared without a key"):
        make_run_key(tmp_path / "run")
