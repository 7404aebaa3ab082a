"""A copy of a run that lacks ``state/account/``: the account knows of another course, and the copy does not.

It went on as the course that it was copied from: with its masks, and in a run that an auditor replays with its keys.
"""

import shutil

import pytest

from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.account_file import AccountError
from tests.conftest import tiny
from tests.people import of_people


@pytest.fixture
def copied(tiny_markets, tmp_path):
    """How a run goes on in a directory, one in which it has, and a copy from before without what was let in."""
    config = of_people(tiny(privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)

    def go_on(directory):
        return open_federation(config, tiny_markets, directory, account=account)

    began = go_on(first)
    shutil.copytree(first, second)
    go_on(first)
    for market in tiny_markets:
        RunDirectory(second).account(market).unlink()
    return go_on, began, second


def test_it_does_not_go_on(copied):
    go_on, _, second = copied
    with pytest.raises(AccountError, match=r"m0.json: is gone.*restore the file, or start a new run"):
        go_on(second)


def test_not_even_where_a_start_that_was_refused_has_left_a_file(copied):
    go_on, began, second = copied
    for _ in range(2):
        with pytest.raises(AccountError, match="is gone"):
            go_on(second)
    assert len(spent_on_same_data(began.account, second, "m0")) == 1  # and nothing was entered


def test_without_its_ledger_too_it_masks_with_keys_of_its_own(copied):
    """Two vectors under one mask show their difference to the server."""
    go_on, began, second = copied
    for market in began.doors:
        RunDirectory(second).ledger(market).unlink()
    alone = go_on(second)
    assert len(spent_on_same_data(began.account, second, "m0")) == 2  # the account has let it in as another
    assert alone.course == 1
    assert alone.masks["m0"].public != began.masks["m0"].public
