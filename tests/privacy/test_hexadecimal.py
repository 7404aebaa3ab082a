import pytest

from privacy.hexadecimal import bytes_of, is_digest


def test_bytes_have_one_spelling():
    assert bytes_of("00ff") == b"\x00\xff"
    for text in ("00FF", "00 ff", "00ff\n", "\t00ff", "0", "zz"):
        with pytest.raises(ValueError, match="hexadecimal"):
            bytes_of(text)
    with pytest.raises(TypeError):
        bytes_of(None)


def test_a_digest_has_one_spelling():
    assert is_digest("0a" * 32)
    assert not any(map(is_digest, ("0A" * 32, "0a" * 31, "0a" * 32 + "\n", "", None, b"0a" * 32)))
