"""``fedmm init``: files in, a configuration that runs out, or a question and nothing written."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.commands.dialog import Dialog
from experiments.first_run.configuration import market_names
from experiments.runs.configuration import resolve
from experiments.runs.markets import synthesize_files
from fedmm_secure.config import SyntheticSpec
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.data.questions import OpenQuestion, UndecidedError
from tests.command_line import fedmm
from tests.conftest import REAL_DATA, TESTS

CASES = TESTS.parents[1] / "shared" / "cases"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three markets with their catalogues; tests that change files work on copies."""
    folder = tmp_path_factory.mktemp("files")
    synthesize_files(SyntheticSpec(markets=3, users=60, items=60), folder)
    return folder


@pytest.fixture
def copies(files, tmp_path):
    return Path(shutil.copytree(files, tmp_path / "my markets"))


def test_the_written_configuration_is_private_and_fits_its_files(files, tmp_path, capsys):
    out = tmp_path / "my first.yaml"
    status, printed, err = fedmm(capsys, "init", *sorted(files.iterdir()), "--out", out)
    assert (status, err) == (0, "")
    assert f"fedmm run '{out}'" in printed
    config = resolve(str(out))
    assert (config.privacy.epsilon, config.privacy.protect, config.catalogue) == (8.0, "release", "file")
    assert {name: market.catalogue.kind for name, market in prepare_markets(config.data).items()} == dict.fromkeys(
        ("m0", "m1", "m2"), "file"
    )
    commented = [line for line in out.read_text().splitlines() if line.strip() and not line.endswith(":")]
    assert all("#" in line or "path:" in line for line in commented)


@pytest.mark.slow  # a minute for a solved budget
def test_the_written_configuration_runs(files, tmp_path, capsys):
    out = tmp_path / "my.yaml"
    assert fedmm(capsys, "init", *files.glob("*.csv"), "--out", out)[0] == 0
    small = ("federation.rounds=1", "privacy.ctr.steps=2", "ctr.baselines=[popularity]", "privacy.pseudo_users=0")
    changes = [word for change in (*small, f"privacy.account={tmp_path / 'account'}") for word in ("--set", change)]
    status, _, err = fedmm(capsys, "run", out, "--out", tmp_path / "run", "--quiet", *changes)
    assert (status, err) == (0, "")


def test_nothing_of_the_rows_stands_in_the_configuration(copies, tmp_path, capsys):
    texts = []
    for out in ("a.yaml", "b.yaml"):
        assert fedmm(capsys, "init", *copies.glob("*.csv"), "--out", tmp_path / out)[0] == 0
        texts.append((tmp_path / out).read_text().replace(out, ""))
        lines = (copies / "m0.csv").read_text().splitlines(keepends=True)
        (copies / "m0.csv").write_text("".join(lines[:-7]))
    assert texts[0] == texts[1]


def test_a_file_that_is_there_stays(files, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    status, _, err = fedmm(capsys, "init", *files.glob("*.csv"), "--out", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "--force" in err
    assert fedmm(capsys, "init", *files.glob("*.csv"), "--out", out, "--force")[0] == 0
    assert out.read_text() != "mine"


def test_two_markets_are_too_few(files, tmp_path, capsys):
    status, _, err = fedmm(capsys, "init", files / "m0.csv", files / "m1.csv", "--out", tmp_path / "x.yaml")
    assert status == 2
    assert err.count("\n") == 1
    assert "3 at least" in err


@pytest.mark.parametrize("how", ["named thrice", "link", "copy", "other order of columns"])
def test_one_file_is_not_several_markets(copies, tmp_path, capsys, how):
    first, second = copies / "m0.csv", copies / "m1.csv"
    if how == "named thrice":
        second = Path(f"{copies}/../{copies.name}/m0.csv")
    else:
        second.unlink()
    if how == "link":
        second.symlink_to(first)
    elif how == "copy":
        shutil.copy(first, second)
    elif how == "other order of columns":
        pd.read_csv(first)[["item", "time", "user"]].to_parquet(copies / "m1.parquet")
        second = copies / "m1.parquet"
    status, _, err = fedmm(capsys, "init", first, second, copies / "m2.csv", "--out", tmp_path / "x.yaml",
                           "--shared-users", "composed", "--catalogue", "declared")  # fmt: skip
    assert (status, len(err.splitlines())) == (2, 1)
    assert "m0.csv (market m0" in err or "m0.csv (market market-1" in err
    assert f"{second.name} (market m" in err
    assert "hold the same rows" in err
    assert not (tmp_path / "x.yaml").exists()


def test_open_questions_name_their_options_and_nothing_is_written(copies, tmp_path, capsys):
    for path in copies.glob("*.csv"):
        path.write_text(path.read_text().replace("user,item,", "who,what,", 1))
    out = tmp_path / "x.yaml"
    status, _, err = fedmm(capsys, "init", *copies.glob("*.csv"), "--out", out)
    assert (status, out.exists()) == (1, False)
    assert "--user who" in err
    assert [path.name for path in tmp_path.iterdir()] == ["my markets"]
    assert fedmm(capsys, "init", *copies.glob("*.csv"), "--out", out, "--user", "who", "--item", "what")[0] == 0
    assert resolve(str(out)).data.markets["m0"].user == "who"


def test_without_catalogue_files_only_their_owner_vouches_for_items(copies, tmp_path, capsys):
    for path in copies.glob("*.items.txt"):
        path.unlink()
    out = tmp_path / "x.yaml"
    status, _, err = fedmm(capsys, "init", *copies.glob("*.csv"), "--out", out)
    assert (status, out.exists()) == (1, False)
    assert "--catalogue declared" in err
    assert fedmm(capsys, "init", *copies.glob("*.csv"), "--out", out, "--catalogue", "declared")[0] == 0
    assert resolve(str(out)).privacy.catalogue == "declared"


def test_shared_ids_and_bad_rows_are_asked_about(copies, tmp_path, capsys):
    lines = (copies / "m0.csv").read_text().splitlines(keepends=True)
    (copies / "m1.csv").write_text("".join(lines[:-1]))  # another file, of the same people
    shutil.copy(copies / "m0.items.txt", copies / "m1.items.txt")
    with (copies / "m2.csv").open("a") as file:
        file.write("only-one-field\n")
    out = tmp_path / "x.yaml"
    command = ("init", *copies.glob("*.csv"), "--out", out)
    status, _, err = fedmm(capsys, *command)
    assert status == 1
    assert "--on-bad-rows skip" in err
    status, _, err = fedmm(capsys, *command, "--on-bad-rows", "skip")
    assert status == 1
    assert "--shared-users composed" in err
    assert fedmm(capsys, *command, "--on-bad-rows", "skip", "--shared-users", "composed")[0] == 0
    data = resolve(str(out)).data
    assert (data.on_bad_rows, data.shared_users) == ("skip", "composed")
    assert fedmm(capsys, *command, "--on-bad-rows", "error", "--force")[0] == 2


def test_bad_rows_are_left_out_by_an_option_where_good_ones_are_left(copies, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(copies)
    command = ("init", "m0.csv", "m1.csv", "m2.csv", "--out", tmp_path / "x.yaml", "--on-bad-rows", "error")
    path, lines = copies / "m2.csv", (copies / "m2.csv").read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, "one-field\n"]))
    status, _, err = fedmm(capsys, *command)
    assert status == 2
    assert err == (
        f"fedmm: {path}:{len(lines) + 1}: 1 fields where 4 were expected (1 bad row in all; --on-bad-rows skip leaves "
        "them out)\n"
    )
    path.write_text("".join([lines[0], *(line.replace("-", "/") for line in lines[1:])]))
    status, _, err = fedmm(capsys, *command, "--user", "user", "--time-unit", "iso")
    assert status == 2
    assert "and no good one" in err
    assert "skip" not in err
    path.write_text("".join([*lines[:15], "one-field\n"]))
    status, _, err = fedmm(capsys, *command)
    assert status == 2
    assert "(1 bad row in all); without them: " in err
    assert err.count(str(path)) == 2


def test_a_question_is_asked_once_for_files_that_are_alike(monkeypatch, capsys):
    typed = iter(["7", "2"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(typed))
    dialog = Dialog({}, interactive=True)

    def step(answers):
        if "user" not in answers:
            raise UndecidedError(OpenQuestion("user", "which?", ("who", "what")))
        return answers["user"]

    assert dialog.settle(step) == dialog.settle(step) == ["what"]
    err = capsys.readouterr().err
    assert "1  who" in err
    assert "a number from 1 to 2" in err


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("de_5core.txt.gz", "uk_5core.txt.gz"), ["de", "uk"]),
        (("ratings-DE.csv", "ratings-UK.csv"), ["de", "uk"]),
        (("m0.csv", "m1.csv"), ["m0", "m1"]),
        (("market 1.csv", "market 2.csv"), ["market-1", "market-2"]),
        (("/x/de/rows.csv", "/x/uk/rows.csv"), ["de", "uk"]),
        (("日本.csv", "server.csv", "no.csv"), ["market-1", "market-2", "no"]),
        (("a/rows.csv", "b/a/rows.csv"), ["a", "market-2"]),
        (("x" * 300 + ".csv", "y.csv"), ["market-1", "y"]),
        (("shop-2026-10.csv",), ["shop"]),  # and next month's
        (("de_20261001.csv", "uk_20261001.csv"), ["de", "uk"]),
        (("2025.csv", "2026.csv"), ["2025", "2026"]),
        (("shop-2025.csv", "shop-2026.csv"), ["shop-2025", "shop-2026"]),
        (("orders 1.csv",), ["orders-1"]),
    ],
)
def test_names_are_what_file_names_do_not_share(paths, names):
    assert market_names(list(map(Path, paths))) == names


def test_names_that_yaml_reads_otherwise_stand_in_quotes(copies, tmp_path, capsys):
    for old, new in (("m0", "no"), ("m1", "on"), ("m2", "1e3")):
        (copies / f"{old}.csv").rename(copies / f"{new}.csv")
        (copies / f"{old}.items.txt").rename(copies / f"{new}.items.txt")
    out = tmp_path / "x.yaml"
    assert fedmm(capsys, "init", *copies.glob("*.csv"), "--out", out)[0] == 0
    assert set(yaml.safe_load(out.read_text())["data"]["markets"]) == {"no", "on", "1e3"}


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"{REAL_DATA} is not here")
def test_real_files_leave_two_things_to_their_owner(tmp_path, capsys):
    files, out = sorted(REAL_DATA.glob("*.gz")), tmp_path / "x.yaml"
    status, _, err = fedmm(capsys, "init", *files, "--out", out)
    assert (status, out.exists()) == (1, False)
    assert "--shared-users composed" in err
    assert "--catalogue declared" in err
    status, _, err = fedmm(capsys, "init", *files, "--out", out, "--shared-users=composed", "--catalogue=declared")
    assert (status, err) == (0, "")
    assert sorted(resolve(str(out)).data.markets) == ["ca", "de", "fr", "in", "jp", "mx", "uk"]


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not here")
@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        ("quote.tsv", 1, "--no-quoting"),
        ("bigid-null.parquet", 1, "--on-bad-rows skip"),
        ("null-ids.csv", 1, "--on-bad-rows skip"),
        ("tz-fold.parquet", 2, "the valid part has no positives"),
        ("y9999.csv", 1, "--on-bad-rows skip"),
        ("dup-header.csv", 2, "both named 'user'"),
    ],
)
def test_files_that_were_misread_are_asked_about_or_refused(tmp_path, capsys, name, status, word):
    lines, others = (CASES / "clean.csv").read_text().splitlines(keepends=True), []
    for number, other in enumerate("ab"):
        others.append(tmp_path / f"{other}.csv")
        others[-1].write_text("".join(lines[: len(lines) - number]))
    found, _, err = fedmm(capsys, "init", CASES / name, *others, "--out", tmp_path / "x.yaml")
    assert found == status
    assert word in err
    assert not (tmp_path / "x.yaml").exists()
