"""Directories as archives."""

import io
import stat
import tarfile
import zipfile

import pytest

from fedmm_secure.foreign.archives import ArchiveError
from fedmm_secure.storage.packed import pack_directory, unpack_directory
from tests.unpacking import archive_of


def test_a_directory_comes_back_for_its_owner_alone(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "below").mkdir(parents=True)
    (there / "below" / "file").write_bytes(b"rows")
    (there / "below" / "link").symlink_to("/etc/passwd")  # is no file, and stays
    here.mkdir(mode=0o700)
    unpack_directory(pack_directory(there), here)
    assert [path.relative_to(here).as_posix() for path in here.rglob("*")] == ["below", "below/file"]
    assert (here / "below" / "file").read_bytes() == b"rows"
    assert not any(path.stat().st_mode & 0o077 for path in here.rglob("*"))


def test_an_archive_holds_files_alone(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    unpack_directory(archive_of({link: b"/etc/passwd"}), tmp_path)
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_bytes() == b"/etc/passwd"


@pytest.mark.parametrize(
    "name",
    ["../outside", "/tmp/outside", "a/../../outside", "a//b", "a/./b", "a/", "x" * 256, "d/" * 200 + "x", "a\nb", "é"],
)
def test_an_archive_writes_files_below_its_directory_and_nothing_else(tmp_path, name):
    (here := tmp_path / "here").mkdir()
    with pytest.raises(ArchiveError):
        unpack_directory(archive_of({"good": b"", zipfile.ZipInfo(name): b""}), here)
    assert list(tmp_path.rglob("*")) == [here]


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")])
def test_no_file_is_a_folder_too(tmp_path, names):
    with pytest.raises(ArchiveError, match="no name of a file"):
        unpack_directory(archive_of(dict.fromkeys(names, b"")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_archive_is_refused(tmp_path):
    with pytest.raises(ArchiveError):
        unpack_directory(archive_of({"file": bytes(1000)}, zipfile.ZIP_DEFLATED), tmp_path)


def with_holes():
    """A file of a terabyte in ten kilobytes, as extended headers of tar say it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("file")
        member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40)}
        archive.addfile(member)
    return packed.getvalue()


def test_an_archive_unpacks_into_no_more_than_arrived(tmp_path):
    with tarfile.open(fileobj=io.BytesIO(with_holes()), mode="r:") as archive:  # as it was
        for member in archive:
            assert member.type == tarfile.REGTYPE
            archive.extract(member, tmp_path, filter="data")
    assert (tmp_path / "file").stat().st_size == 2**40
    (here := tmp_path / "here").mkdir()
    with pytest.raises(ArchiveError):
        unpack_directory(with_holes(), here)
    (tmp_path / "file").unlink()
