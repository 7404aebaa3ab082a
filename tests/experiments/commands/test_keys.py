import json
import stat

import pytest
import yaml

from privacy.aggregation.bundle import read_bundle
from privacy.aggregation.keys import KeyDirectory
from tests.command_line import fedmm
from tests.conftest import TINY
from tests.faults import LEAST


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump(TINY | {"aggregation": {"rotate_after": 3}, "federation": {"rounds": 1}, "ctr": LEAST})
    )
    return path


@pytest.fixture
def ceremony(tmp_path, config, capsys):
    """Three markets and a server, by commands alone."""
    keys = tmp_path / "keys"
    for name in ("m0", "m1", "m2", "server"):
        assert fedmm(capsys, "keys", "join", name, "--keys", keys / name)[0] == 0
    cards = [word for name in ("m1", "m2", "server") for word in ("--card", keys / name / "card.json")]
    assert fedmm(capsys, "keys", "init", config, "--market", "m0", "--keys", keys / "m0", *cards)[0] == 0
    return keys


def accept(keys, capsys):
    for name in ("m1", "m2"):
        invitation = keys / "m0" / "invitations" / f"{name}.json"
        status, out, err = fedmm(capsys, "keys", "join", name, "--keys", keys / name, "--invitation", invitation)
        assert status == 0, err
    bundle = keys / "m0" / "federation.json"
    assert fedmm(capsys, "keys", "join", "server", "--keys", keys / "server", "--invitation", bundle)[0] == 0
    return out


def shared_keys(keys):
    found = set()
    for name in ("m0", "m1", "m2"):
        directory = KeyDirectory(keys / name)
        found.add(directory.key(directory.identity(), directory.bundle()).fingerprint)
    return found


def test_a_ceremony_gives_the_markets_one_key_and_the_server_none(ceremony, capsys):
    printed = accept(ceremony, capsys)
    assert len(shared_keys(ceremony)) == 1
    assert not (ceremony / "server" / "federation.key").exists()
    bundle = read_bundle(ceremony / "server" / "federation.json")
    assert bundle.fingerprint in printed
    assert bundle.rotate_after == 3
    for name in ("m0", "server"):
        status, out, _ = fedmm(capsys, "keys", "show", ceremony / name)
        assert status == 0
        assert bundle.fingerprint in out
    assert stat.S_IMODE((ceremony / "m1" / "federation.key").stat().st_mode) == 0o600


def test_rotation_gives_all_a_new_key(ceremony, capsys):
    accept(ceremony, capsys)
    before = shared_keys(ceremony)
    assert fedmm(capsys, "keys", "rotate", "--keys", ceremony / "m0")[0] == 0
    assert len(shared_keys(ceremony)) == 2  # the others have not yet accepted
    accept(ceremony, capsys)
    after = shared_keys(ceremony)
    assert len(after) == 1
    assert after != before
    status, _, err = fedmm(capsys, "keys", "rotate", "--keys", ceremony / "m1")
    assert (status, "m0 founded this federation" in err) == (2, True)


def test_after_a_burned_key_one_command_and_new_invitations_go_on(ceremony, capsys):
    accept(ceremony, capsys)
    for name in ("m0", "m1"):
        keys = KeyDirectory(ceremony / name)
        keys.burn(keys.bundle())
    status, _, err = fedmm(capsys, "keys", "show", ceremony / "m1")
    assert (status, "was burned" in err, err.count("\n")) == (2, True, 1)
    assert fedmm(capsys, "keys", "rotate", "--keys", ceremony / "m0")[0] == 0
    accept(ceremony, capsys)
    assert len(shared_keys(ceremony)) == 1


def test_a_market_leaves_by_a_new_bundle(tmp_path, capsys):
    path = tmp_path / "five.yaml"
    synthetic = TINY["data"] | {"synthetic": TINY["data"]["synthetic"] | {"markets": 5}}
    path.write_text(yaml.safe_dump(TINY | {"data": synthetic, "aggregation": {"kind": "masked-ckks"}}))
    keys, names = tmp_path / "keys", ("m0", "m1", "m2", "m3", "m4", "server")
    for name in names:
        assert fedmm(capsys, "keys", "join", name, "--keys", keys / name)[0] == 0
    cards = [word for name in names[1:] for word in ("--card", keys / name / "card.json")]
    assert fedmm(capsys, "keys", "init", path, "--market", "m0", "--keys", keys / "m0", *cards)[0] == 0
    accept(keys, capsys)
    for wrong, reason in (
        (["m9"], "one of m1, m2, m3, m4"),
        (["m0"], "one of m1"),
        (["m1", "m2", "m3"], "3 are needed"),
    ):
        options = [word for name in wrong for word in ("--without", name)]
        status, _, err = fedmm(capsys, "keys", "rotate", "--keys", keys / "m0", *options)
        assert (status, reason in err, err.count("\n")) == (2, True, 1)
    assert fedmm(capsys, "keys", "rotate", "--keys", keys / "m0", "--without", "m4")[0] == 0
    assert not (keys / "m0" / "invitations" / "m4.json").exists()  # nobody hands it the old key by mistake
    accept(keys, capsys)
    bundle = read_bundle(keys / "server" / "federation.json")
    assert (bundle.markets, bundle.epoch) == (("m0", "m1", "m2", "m3"), 2)
    assert bundle.aggregation["cohort"] == bundle.aggregation["ckks"]["cohort"] == 4


def test_a_market_comes_by_a_new_bundle_that_every_other_admits(ceremony, capsys):
    """A founder cannot let in whom he likes: a market that nobody else knows could be his own."""
    accept(ceremony, capsys)
    status, out, _ = fedmm(capsys, "keys", "join", "m3", "--keys", ceremony / "m3")
    assert status == 0
    fingerprint = out.splitlines()[1].removeprefix("fingerprint").strip()
    rotate = ["keys", "rotate", "--keys", ceremony / "m0", "--with"]
    assert fedmm(capsys, *rotate, ceremony / "m3" / "card.json")[0] == 0
    assert "a party already" in fedmm(capsys, *rotate, ceremony / "m1" / "card.json")[2]
    invitations, bundle = ceremony / "m0" / "invitations", ceremony / "m0" / "federation.json"
    before = shared_keys_of(ceremony / "m1")
    join = ["keys", "join", "m1", "--keys", ceremony / "m1", "--invitation", invitations / "m1.json"]
    other = KeyDirectory(ceremony / "m0").identity().card.fingerprint
    for admitted, reason in (
        ([], "say --admit m3=FINGERPRINT"),
        (["--admit", f"m3={other}"], "say --admit m3=FINGERPRINT"),
        (["--admit", f"m4={fingerprint}"], "say --admit m3=FINGERPRINT"),
        (["--admit", "m3"], "MARKET=FINGERPRINT is expected"),
    ):
        status, _, err = fedmm(capsys, *join, *admitted)
        assert (status, reason in err, err.count("\n")) == (2, True, 1)
    assert shared_keys_of(ceremony / "m1") == before
    for name, invitation in (("m1", "m1.json"), ("m2", "m2.json"), ("server", None)):
        taken = bundle if invitation is None else invitations / invitation
        words = ["keys", "join", name, "--keys", ceremony / name, "--invitation", taken, "--admit", f"m3={fingerprint}"]
        assert fedmm(capsys, *words)[0] == 0
    newcomer = ["keys", "join", "m3", "--keys", ceremony / "m3", "--invitation", invitations / "m3.json"]
    assert fedmm(capsys, *newcomer)[0] == 0
    found = read_bundle(ceremony / "server" / "federation.json")
    assert (found.markets, found.epoch) == (("m0", "m1", "m2", "m3"), 2)
    assert found.aggregation["cohort"] == 4
    assert len({shared_keys_of(ceremony / name) for name in found.markets}) == 1
    assert shared_keys_of(ceremony / "m3") != before  # and nothing that was sealed before can be opened by it


def shared_keys_of(folder):
    directory = KeyDirectory(folder)
    return directory.key(directory.identity(), directory.bundle()).fingerprint


def test_a_passphrase_is_asked_for_where_one_was_set(tmp_path, config, capsys, monkeypatch):
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    keys = tmp_path / "m0"
    assert fedmm(capsys, "keys", "join", "m0", "--keys", keys, "--passphrase-file", phrase)[0] == 0
    status, _, err = fedmm(capsys, "keys", "show", keys)
    assert status == 2
    assert "passphrase" in err
    assert "horse" not in err
    monkeypatch.setenv("FEDMM_PASSPHRASE", "correct horse")
    assert fedmm(capsys, "keys", "show", keys)[0] == 0


MISTAKES = {
    "another party's directory": (["join", "m1", "--keys", "m0"], "holds the keys of m0"),
    "a name with a slash": (["join", "../m1", "--keys", "m1"], "party name"),
    "an invitation of another market": (
        ["join", "m2", "--keys", "m2", "--invitation", "m0/invitations/m1.json"],
        "not sealed for m2",
    ),
    "no such file": (["show", "m9.json"], "missing"),
    "founding twice": (["init", "../tiny.yaml", "--market", "m0", "--keys", "m0", "--card", "m1/card.json"], "already"),
    "no server": (["init", "../tiny.yaml", "--market", "x", "--keys", "x", "--card", "m1/card.json"], "one server"),
    "an empty passphrase": (["show", "m0", "--passphrase-file", "/dev/null"], "first line is empty"),
}


@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_in_one_line(ceremony, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(ceremony)
    status, _, err = fedmm(capsys, "keys", *arguments)
    assert status == 2
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["plaintext", "ckks", "masked-ckks"])
def test_explain_gives_the_sizes_that_a_run_then_has(tmp_path, config, capsys, kind):
    override = f"aggregation.kind={kind}"
    status, out, _ = fedmm(capsys, "keys", "explain", config, "--set", override, "--json")
    assert status == 0
    found = json.loads(out)
    run = tmp_path / "run"
    assert fedmm(capsys, "run", config, "--set", override, "--out", run, "--quiet")[0] == 0
    sizes = {}
    for line in (run / "transcript" / "index.jsonl").read_text().splitlines():
        record = json.loads(line)
        sizes.setdefault(record["kind"], set()).add(record["size"])
    envelope = 4 + 64  # length of the header, signature
    for kind_of_message, expected in (("update", "update_bytes"), ("aggregate", "aggregate_bytes")):
        (size,) = sizes[kind_of_message]
        assert 200 < size - found[expected] - envelope < 500  # the header
    if kind != "plaintext":
        assert found["worst_error"] < 0.5
        assert found["margin_bits"] >= 10
        assert found["modulus_bits"] <= found["modulus_bits_at_most"]
        status, out, _ = fedmm(capsys, "keys", "explain", config, "--set", override)
        assert "Exact: noise" in out
        assert "128-bit security" in out


def test_what_cannot_be_exact_and_secure_is_refused(config, capsys):
    status, _, err = fedmm(capsys, "keys", "explain", config, "--markets", 1000, "--set", "aggregation.bits=30")
    assert status == 2
    assert "no 128-bit secure CKKS parameters add 1000 values" in err


def test_a_key_that_protects_fewer_rounds_than_a_run_needs_is_refused(config, capsys, tmp_path):
    status, _, err = fedmm(capsys, "run", config, "--set", "federation.rounds=4", "--out", tmp_path / "run")
    assert status == 2
    assert "aggregation.rotate_after: 3 is less than the 4 rounds" in err
