"""Directories as archives."""

import io
import tarfile

import pytest

from fedmm_secure.storage.packed import pack_directory, unpack_directory


def test_a_directory_comes_back(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "below").mkdir(parents=True)
    (there / "below" / "file").write_bytes(b"rows")
    here.mkdir()
    unpack_directory(pack_directory(there), here)
    assert (here / "below" / "file").read_bytes() == b"rows"


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_an_archive_holds_files_and_folders_alone(tmp_path, kind, name):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, name
    with pytest.raises(tarfile.ReadError, match="neither a file nor a folder"):
        unpack_directory(archive_of(member), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_writes_nothing_outside(tmp_path):
    (here := tmp_path / "here").mkdir()
    with pytest.raises(tarfile.FilterError):
        unpack_directory(archive_of(tarfile.TarInfo("../outside")), here)
    assert list(tmp_path.rglob("*")) == [here]


def test_a_compressed_archive_is_refused(tmp_path):
    with pytest.raises(tarfile.ReadError):
        unpack_directory(archive_of(tarfile.TarInfo("file"), mode="w:gz"), tmp_path)


def archive_of(member, mode="w:"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        archive.addfile(member)
    return packed.getvalue()
