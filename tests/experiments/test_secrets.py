"""No secret of a run is in any file that it leaves, nor in anything that it prints."""

import base64
import logging
import stat

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmm_secure.federation import members
from privacy.aggregation.bundle import SERVER
from privacy.aggregation.keys import KeyDirectory
from tests.command_line import fedmm
from tests.conftest import TINY


def spellings(secret: bytes) -> set[bytes]:
    """A secret as it could stand in a file: raw, hexadecimal, base64 at each of three alignments."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for skip in range(3):
        part = secret[skip : skip + (len(secret) - skip) // 3 * 3]
        found |= {base64.b64encode(part), base64.urlsafe_b64encode(part)}
    return found


def leaks(secrets: dict[str, bytes], texts: dict[str, bytes]) -> list[str]:
    return [
        f"{name} in {where}"
        for name, secret in secrets.items()
        for where, text in texts.items()
        if any(spelling in text for spelling in spellings(secret))
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished masked run, every secret that was in it, and everything that it printed or logged."""
    folder = tmp_path_factory.mktemp("secrets")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY | {"aggregation": {"kind": "masked-ckks"}}))
    drawn, logged = [], []

    class Recorded(X25519PrivateKey):
        @classmethod
        def generate(cls):
            key = X25519PrivateKey.generate()
            drawn.append(key.private_bytes_raw())
            return key

        from_private_bytes = staticmethod(X25519PrivateKey.from_private_bytes)

    class Keep(logging.Handler):
        def emit(self, record):
            logged.append(record.getMessage())

    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        printed = []
        output.setattr("builtins.print", lambda *values, **_: printed.extend(map(str, values)))
        patch.setattr(members, "X25519PrivateKey", Recorded)
        logging.getLogger().addHandler(Keep())
        from tests.command_line import call

        assert call("run", config, "--out", folder / "run", "--quiet") == 0
    keys = folder / "run" / "state" / "keys"
    secrets = {f"mask key {number}": key for number, key in enumerate(drawn)}
    for name in ("m0", "m1", "m2", SERVER):
        identity = KeyDirectory(keys / name).identity()
        secrets[f"signing key of {name}"] = identity._signing.private_bytes_raw()
        secrets[f"sealing key of {name}"] = identity._sealing.private_bytes_raw()
    directory = KeyDirectory(keys / "m0")
    shared = directory.key(directory.identity(), directory.bundle())
    secrets["tag key"], ckks = shared.tag, shared.ckks.secret
    secrets |= {f"encryption key from byte {at}": ckks[at : at + 48] for at in range(64, len(ckks) - 48, 2000)}
    said = {"output": "\n".join(printed).encode(), "log": "\n".join(logged).encode()}
    return folder / "run", secrets, said


def test_no_secret_is_in_any_artefact_or_in_what_was_printed(run):
    directory, secrets, said = run
    assert len(secrets) > 12
    assert sum(name.startswith("mask") for name in secrets) == 3
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    pems = {name: data for name, data in files.items() if name.endswith("identity.pem")}
    assert len(pems) == 4
    others = {name: data for name, data in files.items() if name not in pems}
    assert leaks(secrets, others | said) == []


def test_the_search_finds_a_secret_however_it_is_spelled(run):
    _, secrets, _ = run
    secret = next(iter(secrets.values()))
    for text in (secret, secret.hex().encode(), base64.b64encode(b"x" + secret), base64.b64encode(b"xy" + secret)):
        assert leaks({"it": secret}, {"file": b"before" + text + b"after"})


def test_secret_files_are_for_their_owner_alone_and_masks_are_gone(run):
    keys = run[0] / "state" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    secret = [path for path in keys.rglob("*") if path.name in ("identity.pem", "federation.key")]
    assert len(secret) == 7  # the server has no shared key
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert list((run[0] / "state" / "masks").rglob("*.key")) == []


def test_the_server_side_of_a_run_holds_no_market_secret(run):
    assert {path.name for path in (run[0] / "state" / "keys" / SERVER).iterdir()} == {
        "identity.pem",
        "card.json",
        "federation.json",
    }


def test_errors_quote_no_key(run, tmp_path, capsys):
    directory, secrets, _ = run
    copy = tmp_path / "m0"
    copy.mkdir()
    for path in (directory / "state" / "keys" / "m0").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for name in ("identity.pem", "federation.key"):
        (copy / name).chmod(0o600)
        (copy / name).write_bytes((copy / name).read_bytes()[:-20])
        status, out, err = fedmm(capsys, "keys", "show", copy)
        assert status == 2
        assert leaks(secrets, {"output": (out + err).encode()}) == []
        assert err.count("\n") == 1
