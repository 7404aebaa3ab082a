"""A copy of a run that lacks ``state/account/``: the account knows of another course, and the copy does not."""

import shutil

from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.storage.layout import RunDirectory
from tests.conftest import tiny
from tests.people import of_people


def test_it_masks_with_keys_of_its_own(tiny_markets, tmp_path):
    """Two vectors under one mask show their difference to the server."""
    config = of_people(tiny(privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    began = open_federation(config, tiny_markets, first, account=account)
    shutil.copytree(first, second)
    open_federation(config, tiny_markets, first, account=account)
    for market in tiny_markets:
        RunDirectory(second).account(market).unlink()
    copied = open_federation(config, tiny_markets, second, account=account)
    assert len(spent_on_same_data(account, second, "m0")) == 2  # the account has let it in as another
    assert copied.course == 1
    assert copied.masks["m0"].public != began.masks["m0"].public
