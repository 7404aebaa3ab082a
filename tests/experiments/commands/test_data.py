"""``fedmm data``: what it writes, and what it refuses."""

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
