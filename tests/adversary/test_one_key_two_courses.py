"""A run that dies between a charge and its seal, and is copied: both copies draw that release from one key.

The account charges the copy as another run, with noise of its own. It has none: the release in hand is computed twice
under one key. On one kind of processor the results are the same to the last bit. On two they are not: clipped gradients
of single users are cut to integers after float arithmetic that rounds otherwise there, and the difference of the two
noised sums, which is free of noise, is the sum of what single users' roundings are.
"""

import shutil

from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.federation.transactions import Result
from privacy.accounting.account_file import AccountError
from tests.conftest import tiny
from tests.people import of_people


def begin_counts(federation):
    return federation.doors["m0"].begin(federation.plans["m0"].counts())


def test_what_is_charged_as_another_run_draws_from_another_key(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    drawn = begin_counts(open_federation(config, tiny_markets, first, account=account)).key
    shutil.copytree(first, second)  # killed here: charged, not sealed
    resumed = open_federation(config, tiny_markets, first, account=account)
    assert begin_counts(resumed).key == drawn  # the same computation once more
    copied = open_federation(config, tiny_markets, second, account=account)
    assert copied.course == 1
    assert len(spent_on_same_data(account, second, "m0")) == 2  # two runs with two noises, says the account
    assert begin_counts(copied).key != drawn


def test_two_processes_do_not_both_publish_what_was_charged_once(tiny_markets, tmp_path):
    """The living one is past its charge when the copy goes on as the same run; here rounding is a byte."""
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    living = open_federation(config, tiny_markets, first, account=account)
    release, published = living.plans["m0"].counts(), []

    def compute(rounding, meanwhile=lambda: None):
        def drawn(source):
            meanwhile()
            published.append((source._key, source.derive("noise").words(1).tobytes() + rounding))
            return Result(published[-1][1])

        return drawn

    def goes_on_elsewhere():
        shutil.copytree(first, second)
        copied = open_federation(config, tiny_markets, second, account=account)
        assert copied.course == 0
        copied.doors["m0"].perform(release, compute(b"1"), second / "counts")

    try:
        living.doors["m0"].perform(release, compute(b"0", goes_on_elsewhere), first / "counts")
    except AccountError:
        return
    (one, other), runs = published, spent_on_same_data(account, first, "m0")
    assert one == other or one[0] != other[0] or len(runs) == 2
