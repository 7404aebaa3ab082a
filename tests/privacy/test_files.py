"""Files for their owner alone, under any umask, and never through a link."""

import os
import stat

import pytest

from privacy.accounting.lines import append_line
from privacy.files import PUBLIC_MODE, KeyFileError, erase, private_folder, write_atomic, write_secret


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    previous = os.umask(request.param)
    yield request.param
    os.umask(previous)


def test_what_is_written_is_private_under_any_umask(tmp_path, umask):
    write_atomic(tmp_path / "a" / "b" / "file", b"data")
    append_line(tmp_path / "c" / "d" / "lines", b"line\n")
    private_folder(tmp_path / "e" / "f")
    assert {mode(tmp_path / name) for name in ("a", "a/b", "c", "c/d", "e", "e/f")} == {0o700}
    assert {mode(tmp_path / name) for name in ("a/b/file", "c/d/lines")} == {0o600}
    write_atomic(tmp_path / "card.json", b"{}", PUBLIC_MODE)
    assert mode(tmp_path / "card.json") == 0o644


def test_a_file_is_replaced_or_kept_as_asked(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old", replace=False)
    with pytest.raises(FileExistsError):
        write_atomic(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyFileError, match="exists already"):
        write_secret(path, b"secret")
    assert os.listdir(tmp_path) == ["file"]


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", [lambda path: append_line(path, b"line\n"), erase], ids=["append", "erase"])
def test_a_link_at_a_name_is_refused(tmp_path, write):
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_bytes(b"precious\n")
    link.symlink_to(precious)
    with link.open("ab") as file:  # what opening by name does
        file.write(b"line\n")
    assert precious.read_bytes() == b"precious\nline\n"
    with pytest.raises(OSError, match="symbolic links"):
        write(link)
    assert precious.read_bytes() == b"precious\nline\n"


def test_temporaries_have_names_that_nobody_foresees(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(tuple(os.listdir(tmp_path))))
    for _ in range(3):
        write_atomic(tmp_path / "file", b"data")
        (tmp_path / "file").unlink()
    names = {name for found in seen for name in found} - {"file"}
    assert len(names) == 3
    assert all(name.startswith(".file.") and name.endswith(".tmp") and len(name) > 20 for name in names)
