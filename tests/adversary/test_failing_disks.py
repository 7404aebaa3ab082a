"""A disk that fails at random moments: computations with distinct keys never outnumber charges, and the budget holds.

The process goes on living: what it holds in memory must not become a way around the ledger. (Processes that are killed
are in ``tests/fedmm_secure/test_pipeline.py``.)
"""

import errno
import hashlib
import os
import random

import pytest

from experiments.runs.execution import execute
from experiments.verification import verify_run
from fedmm_secure.config import config_from_data
from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.transactions import Transaction
from privacy.accounting.ledger import LedgerError, read_ledger
from privacy.errors import InputError
from tests.conftest import TINY
from tests.people import as_files

HONEST = {"fsync": os.fsync, "replace": os.replace}


class FailingDisk:
    """Lets through a random number of calls that make things last, then fails until it is asked for more."""

    def __init__(self, chooser, most):
        self.chooser, self.most, self.failures = chooser, most, 0
        self.rest()

    def rest(self):
        self.left = self.chooser.randrange(1, self.most)

    def fsync(self, descriptor):
        self.left -= 1
        if self.left <= 0:
            self.failures += 1
            raise OSError(self.chooser.choice([errno.ENOSPC, errno.EIO]), "the disk failed")
        return HONEST["fsync"](descriptor)


def run_until_done(directory, config, disk):
    """Start, and resume after every failure; returns how often it failed."""
    resume = False
    for attempt in range(200):
        disk.rest()
        try:
            execute(directory, config, resume=resume)
            return attempt
        except (OSError, InputError) as error:
            if (
                isinstance(error, InputError)
                and "the disk failed" not in str(error)
                and not isinstance(error, LedgerError)
            ):
                raise
        resume = (directory / "config.yaml").exists()
    raise AssertionError("the run never came to its end")


def config(folder):
    """On people's rows, so that every charge and seal is in an account as well."""
    sections = {
        **TINY,
        "privacy": {
            **TINY["privacy"],
            "epsilon": 4.0,
            "protect": "release",
            "ctr": {"steps": 4},
            "user_codes_epsilon": 2.0,
        },
        "embedding": {**TINY["embedding"], "private": {"dim": 4}},
        "ctr": {**TINY["ctr"], "baselines": ["popularity"]},
        "federation": {**TINY["federation"], "rounds": 3, "local_epochs": 1},
        "aggregation": {"kind": "masked-ckks"},
    }
    return config_from_data(as_files(folder, **sections), source="test")


def check(tmp_path, monkeypatch, seed, most):
    used, honest = {}, Transaction.key.fget

    def key(transaction):
        found = honest(transaction)
        used.setdefault(transaction.charge.entry.market, set()).add(hashlib.sha256(found).hexdigest())
        return found

    disk, directory, found = FailingDisk(random.Random(seed), most), tmp_path / "run", config(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "key", property(key))
        patch.setattr(os, "fsync", disk.fsync)
        failures = run_until_done(directory, found, disk)
    for market, keys in used.items():
        ledger = read_ledger(directory / "ledger" / f"{market}.jsonl")
        assert keys <= {charge.key for charge in ledger.charges}
        assert len(ledger.charges) == len({charge.entry.identity for charge in ledger.charges})
        assert all(charge.sequence in ledger.seals for charge in ledger.charges)
        assert len(spent_on_same_data(account_of(found, directory), directory, market)) == 1  # no second course
    assert verify_run(directory) == []
    return failures


def test_a_disk_that_fails_a_few_times(tmp_path, monkeypatch):
    assert check(tmp_path, monkeypatch, seed=1, most=400) >= 3


@pytest.mark.slow
def test_a_disk_that_fails_a_hundred_times(tmp_path, monkeypatch):
    failures, seed = 0, 0
    while failures < 100:
        failures += check(tmp_path / str(seed), monkeypatch, seed=100 + seed, most=700)
        seed += 1
