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
def test_an_archive_writes_nothing_outside(tmp_path, name):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, name
        archive.addfile(link)
    with pytest.raises(tarfile.FilterError):
        unpack_directory(packed.getvalue(), tmp_path)
    assert list(tmp_path.iterdir()) == []
