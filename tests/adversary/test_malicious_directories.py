"""A run directory that hurts who reads it: paths that its files name, links, bombs, escapes, predictable temporaries.

Each attack first works on what the first version did, in short, and then fails on the product.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.runs.markets import synthesize_files
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.federation.transcript import INDEX
from fedmm_secure.storage.run_directory import read_config, read_foreign_config
from privacy.files import write_atomic
from tests.command_line import fedmm
from tests.conftest import TINY
from tests.forgery import Forgery
from tests.malicious import ALIAS_BOMB, ESCAPE, fingerprint, lying_zip, marks, strangers, word_bomb, zip_bomb
from tests.released import put_back

SECONDS = 10.0
CEILING = ("--compliance", "--max-epsilon", "8")


@pytest.fixture
def place(changing, released_run, monkeypatch):
    """A run to be spoiled, and files outside it that must stay as they are; the reader's folder is a third."""
    outside, here = changing / "outside", changing / "here"
    (outside / "folder").mkdir(parents=True)
    (outside / "precious").write_text("precious, without a line feed at its end")
    (outside / "folder" / "data.csv").write_text("userId,itemId\n1,2\n")
    here.mkdir()
    with put_back(changing / "runs", released_run) as run, monkeypatch.context() as patch:
        patch.chdir(here)
        yield run, outside
    for folder in (outside, here):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The folder of the run's files, by the reader's word."""
    folder = tmp_path_factory.mktemp("rows")
    synthesize_files(SyntheticSpec(**TINY["data"]["synthetic"]), folder)
    return folder


def configure(run, section, **values):
    path = run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    inner = content
    for key in section.split("."):
        inner = inner[key]
    inner.update(values)
    path.write_text(yaml.safe_dump(content))


class Hang(BaseException):
    """More time than any reader may take."""


@contextmanager
def bounded(seconds=SECONDS):
    """At most so many seconds of this process's time, and two gigabytes more of its memory."""

    def stop(*_):
        raise Hang

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    start = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    assert time.process_time() - start < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20  # in KiB


def read(capsys, *arguments):
    """Exit status and what was printed by a reader that ends in time, with lines that do nothing to a terminal."""
    with bounded():
        status, out, err = fedmm(capsys, *arguments)
    assert status in (0, 1, 2)
    assert "Traceback" not in out + err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out + err)
    assert status != 2 or err.count("\n") == 1
    return status, out, err


# a file of theirs names a path


def test_an_account_that_the_run_names_is_neither_read_nor_written(place, capsys):
    run, outside = place
    configure(run, "privacy", account=str(outside / "precious"))
    before = fingerprint(outside)

    assert read_config(run).privacy.account == outside / "precious"  # as its owner's process reads it, on a resume
    assert read_foreign_config(run).privacy.account is None
    for command in (("report", run, *CEILING), ("report", run), ("verify", run), ("runs", run.parent)):
        read(capsys, *command)
    assert fingerprint(outside) == before


def test_the_readers_account_is_the_one_that_the_reader_names(place, capsys, released_run):
    run, _ = place
    _, without, _ = read(capsys, "report", run, *CEILING)
    _, with_it, _ = read(capsys, "report", run, *CEILING, "--account", released_run.parent / "privacy.account")
    assert "account" in without
    assert without != with_it
    status, _, err = read(capsys, "verify", run, "--account", "a")
    assert (status, "--account" in err) == (2, True)


def test_data_that_the_run_names_are_not_read(place, capsys):
    run, outside = place
    content = yaml.safe_load((run / "config.yaml").read_text())
    files = {f"m{n}": {"path": str(outside / "folder" / "data.csv")} for n in range(3)}
    content["data"] |= {"synthetic": None, "root": str(outside), "markets": files}
    content["privacy"]["catalogue"] = "declared"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    Forgery(run).finish(owner=True)  # whoever made the run closed its ledgers over it
    assert Path(read_config(run).data.root) == outside
    assert read_foreign_config(run).data.root is None
    status, _, err = read(capsys, "attack", run, "--attack", "inversion")
    assert (status, "--data" in err) == (2, True)
    mine = run.parents[1] / "here"
    status, _, err = read(capsys, "attack", run, "--attack", "inversion", "--data", mine)
    assert (status, "is no file of the folder" in err) == (2, True)


def test_a_base_that_a_sweep_names_is_not_opened(tmp_path, capsys, monkeypatch):
    sweep, secret = tmp_path / "sweep", tmp_path / "secret.yaml"
    secret.write_text("seed: 1\n")
    sweep.mkdir()
    grid = {"base": str(secret), "axes": {}}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"grid": {"base": str(secret)}, "set": [], "bases": {}}))
    assert grid["base"] == str(secret)
    (sweep / "cells" / "seed-0_00000000").mkdir(parents=True)  # no other cell is looked at
    (sweep / "cells" / "seed-0_00000000" / "cell.json").write_text("{}")
    status, _, err = read(capsys, "report", sweep)
    assert (status, "does not hold this configuration" in err) == (2, True)


def test_a_record_with_an_absolute_path_is_not_read(place, rows, capsys):
    run, outside = place
    index = run / "transcript" / INDEX
    lines = index.read_text().splitlines()
    record = next(json.loads(line) for line in lines if json.loads(line)["kind"] == "sum")
    record["file"] = str(outside / "precious")
    assert (run / "transcript" / record["file"]).read_text().startswith("precious")  # what joining paths gives
    index.write_text("\n".join([*lines, json.dumps(record)]) + "\n")
    Forgery(run).finish(owner=True)
    for command in (("report", run), ("attack", run, "--data", rows, "--attack", "inversion")):
        status, _, err = read(capsys, *command)
        assert (status, "names a file outside" in err) == (2, True), command
    status, _, err = read(capsys, "verify", run)
    assert (status, "names a file outside" in err) == (1, True)
    assert read(capsys, "report", run, *CEILING)[0] == 1
    assert "names a file outside" in (run / "compliance.json").read_text()


# what they parse


def test_an_alias_bomb_is_one_line(place, capsys):
    run, _ = place
    shared = yaml.safe_load(ALIAS_BOMB)  # parsed in no time: what walks it takes for ever
    assert shared["w"][0] is shared["w"][1]
    (run / "config.yaml").write_text(ALIAS_BOMB)
    for command in (("verify", run), ("report", run), ("attack", run), ("audit", run)):
        status, _, err = read(capsys, *command)
        assert (status, "YAML alias" in err) == (2, True)
    _, out, _ = read(capsys, "runs", run.parent)
    assert "unreadable" in out


@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "transcript/federation.json", "ledger/m0.jsonl"])
@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "[NaN]", '{"a": 1, "a": 2}', "\ud800", "1" * 10**6])
def test_json_without_end_is_a_finding_or_one_line(place, capsys, name, text):
    run, _ = place
    (run / name).write_bytes(text.encode("utf-8", "surrogatepass") + b"\n")
    for command in (("verify", run), ("report", run), ("compare", run, run)):
        read(capsys, *command)


def test_deep_json_was_a_traceback():
    with pytest.raises(RecursionError):
        json.loads("[" * 10**6)


@pytest.mark.parametrize("bomb", [zip_bomb, lying_zip])
@pytest.mark.parametrize("name", ["models/m0/quantizer-0.pt", "counts/0000-publication-m0.bin"])
def test_files_that_unpack_without_end(place, rows, capsys, bomb, name):
    run, _ = place
    path = run / name if name.startswith("models") else run / "transcript" / name
    path.write_bytes(bomb())
    assert path.stat().st_size < 2**20
    assert read(capsys, "verify", run)[0] == 1
    assert read(capsys, "report", run)[0] == 0  # of this run's models the page reads none
    status, _, _ = read(capsys, "attack", run, "--data", rows, "--attack", "usage", "--market", "m0")
    assert status == (2 if path.suffix == ".pt" else 0)  # the publication is not what it reads


def test_a_table_that_repeats_one_word(place, capsys):
    run, _ = place
    path = run / "codes" / "m0.parquet"
    path.write_bytes(word_bomb(("id", "kind", "global_code", "local_code", "seed")))
    assert path.stat().st_size < 2**20  # and 10^5 rows of 10^6 letters
    for command in (("verify", run), ("report", run)):
        read(capsys, *command)


# what is no file


@pytest.mark.parametrize("name", ["log.jsonl", "ledger/m0.jsonl", "attacks", "codes/m0.parquet", "report.html"])
@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe", "device", "huge"])
def test_a_run_with_something_that_is_no_file_is_not_written_into(place, capsys, name, kind):
    run, outside = place
    path = run / name
    if path.exists():
        path.unlink()
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "link":
            path.symlink_to(outside / "precious")
        case "link to a folder":
            path.symlink_to(outside / "folder")
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "huge":
            with path.open("wb") as file:
                file.truncate(2**40)
    before = fingerprint(outside)
    for command in (("report", run), ("report", run, *CEILING), ("attack", run), ("audit", run), ("compare", run, run)):
        status, _, err = read(capsys, *command)
        assert status == 2
        assert str(path) in err
    read(capsys, "verify", run)
    assert fingerprint(outside) == before


def test_a_link_at_a_predictable_temporary_overwrites_nothing(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in (f".report.html.{os.getpid()}.tmp", ".report.html.new", ".report.html.tmp"):
        (tmp_path / name).symlink_to(precious)

    temporary = tmp_path / f".report.html.{os.getpid()}.tmp"  # as the first version wrote
    with temporary.open("wb") as file:
        file.write(b"page")
    assert precious.read_text() == "page"

    precious.write_text("precious")
    (tmp_path / "report.html").symlink_to(precious)
    write_atomic(tmp_path / "report.html", b"page")
    assert precious.read_text() == "precious"
    assert (tmp_path / "report.html").read_text() == "page"
    assert not (tmp_path / "report.html").is_symlink()


# what they print


def test_names_do_nothing_to_a_terminal(place, capsys):
    run, _ = place
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["markets"][ESCAPE] = metrics["markets"].pop("m0")
    metrics["macro"]["baselines"]["[red]x[/red]"] = metrics["macro"]["baselines"]["popularity"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    (name,) = metrics["markets"].keys() - {"m1", "m2"}
    assert name == ESCAPE  # what printing it would print
    for command in (("verify", run), ("compare", run, run), ("report", run), ("runs", run.parent)):
        read(capsys, *command)
    _, _, err = read(capsys, "compare", run, run)
    assert "[red]" in err  # what it named is there, as text


def test_readers_change_nothing(place, capsys):
    """Torn lines, in ledger and index, stay as they are."""
    run, _ = place
    for name in ("ledger/m0.jsonl", f"transcript/{INDEX}"):
        with (run / name).open("ab") as file:
            file.write(b'{"torn')
    before = fingerprint(run)
    for command in (("verify", run), ("compare", run, run), ("runs", run.parent)):
        read(capsys, *command)
    assert fingerprint(run) == before
    read(capsys, "report", run, *CEILING)
    after = fingerprint(run)
    assert {name for name in after if after[name] != before.get(name)} <= {"compliance.json", "compliance.html"}


# whatever comes to mind

READERS = {
    "verify": ("verify",),
    "compare": ("compare",),
    "report": ("report",),
    "compliance": ("report", *CEILING),
    "runs": ("runs",),
}


CHANGING = ("report", "compliance")  # these write their page into the run, the others nothing


def spoiled(place, capsys, released_run, seed, reader):
    run, outside = place
    before = fingerprint(outside)
    with strangers(run, outside, seed, released_run) as stranger:
        found = marks(run)
        try:
            match reader:
                case "compare":
                    read(capsys, "compare", released_run, run)
                case "runs":
                    read(capsys, "runs", run.parent)
                case _:
                    verb, *options = READERS[reader]
                    read(capsys, verb, run, *options)
        except (Exception, Hang) as error:
            raise AssertionError(f"seed {seed}, {reader}: {stranger.done}: {error!r}") from error
        assert fingerprint(outside) == before, (seed, reader, stranger.done)
        assert sorted(os.listdir(run.parents[1])) == ["here", "outside", "runs"]
        assert os.listdir(run.parents[1] / "here") == []
        assert reader in CHANGING or marks(run) == found, (seed, reader, stranger.done)


@settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), reader=st.sampled_from([*READERS, "verify", "verify", "verify"]))
def test_strangers_runs(place, capsys, released_run, seed, reader):
    spoiled(place, capsys, released_run, seed, reader)


STRANGERS, SHARES = 10_000, 50  # so many directories, in so many tests that processes share


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_ten_thousand_strangers_runs(place, capsys, released_run, share):
    """Each directory has a seed of its own, counted from ``FEDMM_STRANGERS_FROM``: others from elsewhere."""
    first = int(os.environ.get("FEDMM_STRANGERS_FROM", "0"))
    for number in range(share, STRANGERS, SHARES):
        seed = first + number
        reader = random.Random(f"reader {seed}").choice([*READERS, *["verify"] * 30])
        spoiled(place, capsys, released_run, seed, reader)
