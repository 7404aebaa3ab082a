import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from privacy.aggregation.identities import IDENTITY_FILE, Identity
from privacy.aggregation.passphrases import is_locked, lock, unlock
from privacy.files import KeyFileError


@pytest.mark.long
def test_only_the_passphrase_opens_and_every_text_is_another():
    first, second = lock(b"secret", b"horse"), lock(b"secret", b"horse")
    assert first != second
    assert is_locked(first)
    assert b"secret" not in first
    assert unlock(first, b"horse") == b"secret"
    with pytest.raises(ValueError, match="another passphrase"):
        unlock(first, b"horse ")


def test_a_changed_text_does_not_open_and_names_no_costs_of_its_own():
    text = lock(b"secret", b"horse")
    body = text.index(b"\n") + 10
    other = bytes([text[body] ^ 1]) if text[body] ^ 1 > 47 else b"z"
    for changed in (text[:body] + other + text[body + 1 :], text.replace(b"17-8-1", b"04-1-1"), text[:-1], b""):
        with pytest.raises(ValueError, match=r"."):
            unlock(changed, b"horse")


def test_an_identity_of_an_older_version_is_refused_with_a_reason(tmp_path):
    Identity.generate("b").save(tmp_path)
    old = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"horse")
    )
    (tmp_path / IDENTITY_FILE).write_bytes(old)
    with pytest.raises(KeyFileError, match="an older version locked it"):
        Identity.load(tmp_path, b"horse")


def test_a_passphrase_for_an_identity_without_one_is_named(tmp_path):
    Identity.generate("b").save(tmp_path)
    with pytest.raises(KeyFileError, match="has no passphrase"):
        Identity.load(tmp_path, b"horse")
