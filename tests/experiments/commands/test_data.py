"""``fedmm data``: what it writes, and what it refuses."""

import shutil

import pytest
import yaml

from experiments.runs.configuration import resolve
from fedmm_secure import FedMM, load_market
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.errors import DataError
from tests.command_line import fedmm

SMALL = ("--users", 20, "--items", 20, "--markets", 2)


def test_synthetic_markets_never_replace_files_of_something_else(tmp_path, capsys):
    mine, folder = b"user,item\nme,mine\n", tmp_path / "markets"
    folder.mkdir()
    (folder / "m1.csv").write_bytes(mine)
    status, out, err = fedmm(capsys, "data", "synthesize", folder, *SMALL)
    assert (status, out) == (2, "")
    assert err == f"fedmm: {folder / 'm1.csv'}: is there, with other content; --force writes over it\n"
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("m1.csv", mine)]
    assert fedmm(capsys, "data", "synthesize", folder, *SMALL, "--force")[0] == 0
    assert (folder / "m1.csv").read_bytes() != mine


def test_the_same_synthetic_markets_again_are_no_conflict(tmp_path, capsys):
    assert fedmm(capsys, "data", "synthesize", tmp_path, *SMALL)[0] == 0
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir()}
    assert fedmm(capsys, "data", "synthesize", tmp_path, *SMALL)[0] == 0
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir()} == before
    status, _, err = fedmm(capsys, "data", "synthesize", tmp_path, *SMALL, "--seed", 5)
    assert (status, len(err.splitlines())) == (2, 1)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    status, _, err = fedmm(capsys, "data", "synthesize", tmp_path / "file" / "markets", *SMALL)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "cannot be written" in err


def test_copies_of_a_file_are_no_markets_of_their_own(tmp_path, capsys):
    """Neither to ``data check``, nor to a run, nor in Python."""
    assert fedmm(capsys, "data", "synthesize", tmp_path, "--users", 60, "--items", 60)[0] == 0
    shutil.copy(tmp_path / "m0.csv", tmp_path / "m2.csv")
    files = {name: {"path": f"{name}.csv", "user": "user", "item": "item"} for name in ("m0", "m1", "m2")}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"data": {"root": str(tmp_path), "markets": files, "shared_users": "composed"}}))
    same = "m0.csv (market m0) and "
    status, _, err = fedmm(capsys, "data", "check", own)
    assert (status, err.count("\n")) == (2, 1)
    assert same in err
    assert "m2.csv (market m2) hold the same rows" in err
    status, _, err = fedmm(capsys, "run", own, "--out", tmp_path / "run")
    assert (status, err.count("\n"), (tmp_path / "run").exists()) == (2, 1, False)
    assert same in err

    (tmp_path / "m2.csv").write_text((tmp_path / "m0.csv").read_text() + "\n")  # other bytes
    with pytest.raises(DataError, match="hold the same rows"):
        prepare_markets(resolve(str(own)).data)
    markets = {name: load_market(tmp_path / f"{name}.csv", user="user", item="item") for name in files}
    with pytest.raises(DataError, match="market m0 and market m2 hold the same rows"):
        FedMM().fit(markets, tmp_path / "fit")
    assert not (tmp_path / "fit").exists()
