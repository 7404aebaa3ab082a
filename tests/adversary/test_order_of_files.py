"""When a file was written depends on whose rows there are, and archives keep the time: it must say nothing."""

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fedmm_secure.data.prepare import prepare
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.pipeline import largest_first
from fedmm_secure.storage.run_directory import read_environment
from privacy.files import one_time
from tests.released import release_configuration


def without(prepared, config):
    """The market without its most active user, whose place somebody with one row takes: as many users, fewer rows."""
    market = prepared.whole.market
    user = int(np.argmax(np.bincount(market.user)))
    rows = market.user != user
    rows[np.flatnonzero(~rows)[:1]] = True
    fields = ("user", "item", "rating", "time")
    kept = {name: getattr(market, name)[rows] for name in fields}
    return prepare(replace(market, **kept), config.data)


def old_order(markets):
    """As it was: markets with more rows are trained, and so published, first."""
    return sorted(markets, key=lambda name: -markets[name].market.n_rows)


def test_which_market_has_more_rows_does_not_decide_who_publishes_first(tiny_markets):
    config = release_configuration()
    first = old_order(tiny_markets)[0]
    other = {**tiny_markets, first: without(tiny_markets[first], config)}
    assert other[first].market.n_users == tiny_markets[first].market.n_users
    assert old_order(other) != old_order(tiny_markets)  # the attack works on what it was: one user turned the order
    orders = []
    for markets in (tiny_markets, other):
        sizes = market_sizes(config, sorted(markets), markets)
        noise = dict.fromkeys(("counts",), 1.0)  # none is solved: the order does not depend on it
        orders.append(largest_first({name: SpendingPlan.of(config, name, sizes, noise) for name in markets}))
    assert orders[0] == orders[1]


def times(directory):
    return {path.stat().st_mtime_ns for path in [directory, *directory.rglob("*")]}


def test_all_files_of_a_run_have_the_time_when_it_began(released_run):
    """That of its end, less that of its beginning, is how long it took: which ``metrics.json`` does not say either."""
    began = datetime.fromisoformat(read_environment(released_run)["created"])
    assert times(released_run) == {int(began.timestamp()) * 10**9}


def test_an_archive_keeps_times_and_so_tells_which_file_was_first(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for number, name in enumerate(("m2", "m0", "m1")):
        (run / name).write_text("")
        os.utime(run / name, ns=(number * 10**9, number * 10**9))

    def unpacked():
        archive, out = tmp_path / "run.tar", tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        subprocess.run(["tar", "--format=posix", "-cf", archive, "-C", tmp_path, "run"], check=True)
        subprocess.run(["tar", "xf", archive, "-C", out], check=True)
        return sorted((out / "run").iterdir(), key=lambda path: path.stat().st_mtime_ns)

    assert [path.name for path in unpacked()] == ["m2", "m0", "m1"]  # the attack works
    one_time(run, datetime.now(UTC))
    assert len({path.stat().st_mtime_ns for path in unpacked()}) == 1


def test_the_documented_archive_holds_names_and_bytes_alone(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^tar (?:.*\\\n)*.*$", text, re.MULTILINE)
    archives = {}
    for place, (bits, mode) in {"one": (b"rows\0of\0", 0o600), "two": (b"nobody's", 0o750)}.items():
        run = tmp_path / place / "runs" / "x"
        for name in ("ledger/m0.jsonl", "metrics.json", "private/m0.key"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(name)
            os.utime(run / name, ns=(0, int.from_bytes(bits, "big")))
            (run / name).chmod(mode)
        if place == "two":
            os.link(run / "metrics.json", run / "environment.json")
        else:
            (run / "environment.json").write_text("metrics.json")
        subprocess.run(["tar", "--format=posix", "-cf", "plain.tar", "-C", "runs", "x"], cwd=run.parents[1], check=True)
        subprocess.run(["bash", "-ec", command], cwd=run.parents[1], check=True)
        archives[place] = [(run.parents[1] / name).read_bytes() for name in ("plain.tar", "x.tar")]
    assert archives["one"][0] != archives["two"][0]  # the attack works
    assert archives["one"][1] == archives["two"][1]
    with tarfile.open(tmp_path / "one" / "x.tar") as archive:
        names = ["x", "x/environment.json", "x/ledger", "x/ledger/m0.jsonl", "x/metrics.json"]
        assert archive.getnames() == names


def test_no_link_is_followed_when_times_are_set(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("")
    os.utime(outside, ns=(0, 0))
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(outside)
    one_time(run, datetime.now(UTC))
    assert outside.stat().st_mtime_ns == 0
