"""A run that dies while its account lets its markets in, one after the other, and is copied: neither copy went on.

Some markets had gone on elsewhere by then, and some had not. The first were in another course than the others, with
other hellos, which no market and no server took: for ever, in both directories.
"""

import shutil
from contextlib import suppress
from itertools import combinations

import pytest

from experiments.verification import verify_run
from fedmm_secure.federation import parties
from fedmm_secure.federation.account import account_of, enter, spent_on_same_data
from fedmm_secure.federation.in_process import connect
from fedmm_secure.federation.introductions import introduce
from fedmm_secure.federation.messages import MessageError
from fedmm_secure.federation.parties import make_server, open_federation
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import begin
from tests.conftest import tiny
from tests.people import of_people


class KilledError(Exception):
    """Where a process would be killed."""


@pytest.fixture
def start(tiny_markets, tmp_path, monkeypatch):
    """A start of a run in a directory, which is killed after so many markets were let in, or lives."""
    config = of_people(tiny(privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}))
    account = account_of(config, tmp_path / "first")

    def started(directory, let_in=3):
        entered = []

        def killed(*arguments):
            if len(entered) == let_in:
                raise KilledError
            entered.append(enter(*arguments))
            return entered[-1]

        with monkeypatch.context() as patch, suppress(KilledError):
            patch.setattr(parties, "enter", killed)
            return open_federation(config, tiny_markets, directory, account=account)
        return [one.parted for one in entered]

    started.config = config
    return started


def copied(start, tmp_path, let_in):
    """Two copies of a run of which so many markets had been let in, and then so many again in the second."""
    first, second = tmp_path / "first", tmp_path / "second"
    start(first, let_in[0])
    shutil.copytree(first, second)
    start(second, let_in[1])
    return first, second


def test_markets_of_two_courses_do_not_meet(start, tmp_path):
    """What stood in the way, with each market's own course: the server expects the latest, and two have another."""
    first, _ = copied(start, tmp_path, (1, 1))
    assert start(first, 2) == [1, 0]
    federation = start(first)
    server = make_server(
        federation.config,
        federation.directory,
        federation.run,
        federation.bundle,
        federation.server,
        federation.transcript,
        1,
    )
    for market in ("m1", "m2"):
        federation.doors[market].agreement.course = 0
    hellos, rejections = server.welcome(introduce(federation, server.start()))
    assert sorted(hellos) == ["m0"]
    assert [one.market for one in rejections] == ["m1", "m2"]
    with pytest.raises(MessageError):
        federation.doors["m1"].agreement.meet(hellos)


@pytest.mark.parametrize("let_in", [(1, 1), (2, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("turn", [1, -1])
def test_both_copies_go_on_as_two_runs(start, tmp_path, let_in, turn):
    directories = copied(start, tmp_path, let_in)[::turn]
    runs = [start(directory) for directory in directories]
    for run in runs:
        connect(run)
        assert {door.agreement.course for door in run.doors.values()} == {run.course}
        for door in run.doors.values():
            assert sorted(door.agreement.mask_keys) == ["m0", "m1", "m2"]
    one, other = (run.doors for run in runs)
    for market in one:  # no two vectors under one mask, and no noise from one key
        assert one[market].agreement.mask_keys != other[market].agreement.mask_keys
        assert len(spent_on_same_data(runs[0].account, directories[0], market)) == 2
    keys = [door.begin(run.plans[name].counts()).key for run in runs[1:] for name, door in run.doors.items()]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_both_copies_end_as_runs_that_verify(tiny_markets, start, tmp_path):
    begin(tmp_path / "first", start.config)
    directories = copied(start, tmp_path, (1, 1))
    for directory in directories:
        run_pipeline(start.config, tiny_markets, directory)
    assert [verify_run(directory) for directory in directories] == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("first", range(4))
def test_no_order_of_kills_and_starts_masks_twice_with_one_key(start, tmp_path, first):
    """Two copies of a run that has masks, started in turn and killed: of those that live, no two have one mask key."""
    before = start(tmp_path / "first")
    connect(before)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    directories = [tmp_path / "first", tmp_path / "second"]
    start(directories[0], first)
    for second in range(4):
        start(directories[1], second)
        start(directories[0], 3 - second)
        alive = [start(directory) for directory in directories]
        for run in alive:
            connect(run)
        for one, other in combinations(alive, 2):
            for market in one.doors:
                assert one.masks[market].public != other.masks[market].public
