import json
import os
import stat

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.lines import canonical_json
from privacy.aggregation import CKKSParameters, SharedKey
from privacy.aggregation.bundle import (
    BUNDLE_FILE,
    SERVER,
    Bundle,
    found_federation,
    open_key,
    read_bundle,
    read_invitation,
    write_invitation,
)
from privacy.aggregation.identities import CARD_FILE, IDENTITY_FILE, Card, Identity, read_card, seal
from privacy.aggregation.keys import (
    BURNED_FILE,
    KEY_FILE,
    USAGE_FILE,
    KeyBurnedError,
    KeyDirectory,
    KeyExhaustedError,
    check_server_directory,
)
from privacy.files import KeyFileError

PARAMETERS = CKKSParameters.derive(length=10, cohort=3, value_bound=2**10)
NAMES = ("a", "b", "c", SERVER)


@pytest.fixture(scope="module")
def identities():
    return {name: Identity.generate(name) for name in NAMES}


@pytest.fixture(scope="module")
def key():
    return SharedKey.generate(PARAMETERS)


def found(identities, key, **options):
    others = {name: one.card for name, one in identities.items() if name != "a"}
    return found_federation(identities["a"], others, {"kind": "ckks"}, key, **options)


@pytest.fixture(scope="module")
def federation(identities, key):
    return found(identities, key)


@pytest.mark.parametrize("count", [0, 10**9 + 1, int.from_bytes(b"rows of private users" * 40, "big"), True])
def test_what_a_bundle_counts_has_bounds(identities, key, federation, count):
    """The founder's word, and in an integer of thousands of digits a message."""
    assert federation[0].epoch == 1
    for field in ("epoch", "rotate_after"):
        with pytest.raises(ValueError, match=r"expected|counts rounds"):
            found(identities, key, **{field: count})


@pytest.fixture
def directory(tmp_path, identities):
    def make(name):
        path = tmp_path / name
        identities[name].save(path)
        return KeyDirectory(path)

    return make


def test_every_market_gets_the_shared_key_and_nobody_else_does(identities, key, federation):
    bundle, sealed = federation
    assert set(sealed) == {"a", "b", "c"}
    for name in sealed:
        assert open_key(identities[name], bundle, sealed[name]) == key
    for other in ("b", SERVER):
        with pytest.raises(ValueError, match=f"not sealed for {other}"):
            open_key(identities[other], bundle, sealed["c"])


def test_a_sealed_key_belongs_to_its_bundle(identities, key, federation):
    _, sealed = federation
    other, _ = found(identities, key, epoch=2)
    with pytest.raises(ValueError, match="not sealed"):
        open_key(identities["b"], other, sealed["b"])


def test_another_key_than_the_bundle_names_is_refused(identities, federation):
    bundle, _ = federation
    swapped = seal(SharedKey.generate(PARAMETERS).to_bytes(), identities["b"].card, bytes.fromhex(bundle.digest))
    with pytest.raises(ValueError, match="not the one that the bundle names"):
        open_key(identities["b"], bundle, swapped)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_bundle_with_one_changed_value_is_refused(federation, data):
    fields = json.loads(json.dumps(federation[0].to_json()))
    holder, name = data.draw(
        st.sampled_from(
            [(fields, name) for name in fields if name not in ("cards", "aggregation")]
            + [(card, name) for card in fields["cards"].values() for name in card]
            + [(fields["aggregation"], "kind")]
        )
    )
    old = holder[name]
    if isinstance(old, str):
        position = data.draw(st.integers(0, max(0, len(old) - 1)))
        changed = old[:position] + ("0" if old[position : position + 1] != "0" else "1") + old[position + 1 :]
    else:
        changed = data.draw(st.sampled_from([0, 2, -1, "1", [], {}, True, 7.5]))
    holder[name] = changed
    if changed == old and type(changed) is type(old):
        return
    with pytest.raises(ValueError, match=r"."):
        Bundle.from_json(fields)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_arbitrary_json_is_no_bundle(fields):
    with pytest.raises(ValueError, match=r"."):
        Bundle.from_json(fields)


def test_a_card_of_somebody_else_is_refused(identities):
    card = identities["b"].card
    with pytest.raises(ValueError, match="not signed by"):
        Card("mallory", card.signing, card.sealing, card.proof)


def test_secret_files_are_for_their_owner_alone(directory, identities, federation):
    keys = directory("b")
    bundle, sealed = federation
    keys.accept(identities["b"], bundle, sealed["b"])
    for name in (IDENTITY_FILE, KEY_FILE):
        assert stat.S_IMODE(os.stat(keys.path / name).st_mode) == 0o600
    (keys.path / IDENTITY_FILE).chmod(0o640)
    with pytest.raises(KeyFileError, match="others may read it"):
        keys.identity()


def test_a_key_directory_is_read_back(directory, identities, key, federation):
    keys, (bundle, sealed) = directory("b"), federation
    keys.accept(identities["b"], bundle, sealed["b"])
    again = KeyDirectory(keys.path)
    identity = again.identity()
    assert identity.card == identities["b"].card
    assert again.key(identity, bundle) == key
    assert again.bundle() == bundle


@pytest.mark.long
def test_a_passphrase_protects_the_identity_and_through_it_the_key(tmp_path, federation):
    identity = Identity.generate("b")
    identity.save(tmp_path, b"correct horse")
    assert Identity.load(tmp_path, b"correct horse").card == identity.card
    for wrong in (None, b"battery"):
        with pytest.raises(KeyFileError, match="passphrase") as caught:
            Identity.load(tmp_path, wrong)
        assert caught.value.__cause__ is None
    with pytest.raises(KeyFileError, match="holds an identity already"):
        identity.save(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" * 2]
)
def test_a_damaged_identity_is_refused_without_quoting_it(tmp_path, content):
    Identity.generate("b").save(tmp_path)
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    with pytest.raises(KeyFileError, match=IDENTITY_FILE) as caught:
        Identity.load(tmp_path)
    assert "AAAA" not in str(caught.value)


def test_an_identity_under_another_name_is_refused(tmp_path):
    Identity.generate("b").save(tmp_path)
    other = tmp_path / "other"
    Identity.generate("c").save(other)
    (tmp_path / CARD_FILE).write_bytes((other / CARD_FILE).read_bytes())
    with pytest.raises(KeyFileError, match="does not belong"):
        Identity.load(tmp_path)


def test_an_invitation_is_for_one_market(tmp_path, directory, identities, federation):
    bundle, sealed = federation
    write_invitation(tmp_path / "b.json", bundle, sealed["b"])
    again, box = read_invitation(tmp_path / "b.json")
    directory("b").accept(identities["b"], again, box)
    with pytest.raises(KeyFileError, match="not sealed for c"):
        directory("c").accept(identities["c"], again, box)
    stranger = Identity.generate("z")
    with pytest.raises(KeyFileError, match="does not hold the card of z"):
        KeyDirectory(tmp_path / "z").accept(stranger, again, box)


def test_rotation_replaces_the_key_by_a_newer_one_only(directory, identities, federation):
    keys, (first, sealed) = directory("b"), federation
    keys.accept(identities["b"], first, sealed["b"])
    newer_key = SharedKey.generate(PARAMETERS)
    second, resealed = found(identities, newer_key, epoch=2)
    keys.accept(identities["b"], second, resealed["b"])
    assert keys.key(identities["b"], second) == newer_key
    with pytest.raises(KeyFileError, match="holds epoch 2"):
        keys.accept(identities["b"], first, sealed["b"])
    strangers = {name: Identity.generate(name) for name in NAMES} | {"b": identities["b"]}
    third, other = found(strangers, newer_key, epoch=3)
    with pytest.raises(KeyFileError, match="another federation"):
        keys.accept(identities["b"], third, other["b"])


def test_a_key_protects_as_many_rounds_as_its_bundle_allows(directory, identities, key):
    keys = directory("b")
    bundle, sealed = found(identities, key, rotate_after=3)
    keys.accept(identities["b"], bundle, sealed["b"])
    for _ in range(3):
        keys.use(bundle)
    with pytest.raises(KeyExhaustedError, match="has protected 3 of 3 rounds, 1 more are asked for; rotate it"):
        keys.use(bundle)
    rotated, resealed = found(identities, SharedKey.generate(PARAMETERS), epoch=2, rotate_after=3)
    keys.accept(identities["b"], rotated, resealed["b"])
    assert (keys.used_rounds(rotated), keys.used_rounds(bundle)) == (0, 3)
    keys.use(rotated, 3)
    assert (keys.used_rounds(rotated), keys.used_rounds(bundle)) == (3, 3)
    with pytest.raises(KeyExhaustedError, match="epoch 1"):  # a run that began with it goes on counting it
        keys.use(bundle)


@pytest.mark.parametrize("written", ['{"epoch": 1, "rounds": 3}', '{"rounds": {"1": "many"}}', "[]", "{}"])
def test_a_count_of_rounds_in_another_form_is_refused_in_one_line(directory, identities, federation, written):
    """An earlier version counted the rounds of one epoch; guessing which would let a key protect too many."""
    keys, (bundle, sealed) = directory("b"), federation
    keys.accept(identities["b"], bundle, sealed["b"])
    (keys.path / USAGE_FILE).write_text(written)
    for use in (keys.used_rounds, keys.use):
        with pytest.raises(KeyFileError, match=r"usage.json: does not say .* \(fedmm keys rotate\)") as caught:
            use(bundle)
        assert "\n" not in str(caught.value)


def test_the_server_starts_with_its_own_files_only(directory, identities, federation):
    server, (bundle, sealed) = directory(SERVER), federation
    server.accept(identities[SERVER], bundle, b"")
    check_server_directory(server.path)
    assert not (server.path / KEY_FILE).exists()
    (server.path / KEY_FILE).write_bytes(sealed["b"])
    with pytest.raises(KeyFileError, match="does not belong on the server"):
        check_server_directory(server.path)
    market = directory("b")
    with pytest.raises(KeyFileError, match="identity of market b"):
        check_server_directory(market.path)


def test_a_founder_needs_a_server_and_parties_of_different_names(identities, key):
    cards = {name: one.card for name, one in identities.items()}
    for others in ({"b": cards["b"]}, cards):
        with pytest.raises(KeyFileError, match="card of its own"):
            found_federation(identities["a"], others, {}, key)


def test_files_from_outside_are_bounded_and_named(tmp_path):
    path = tmp_path / "card.json"
    bad = {b" " * 2**21: "too large", b"{": "not valid JSON", b"[" * 10**5: "not valid", b"[]": "not a valid card"}
    for content, problem in bad.items():
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match=problem):
            read_card(path)
    with pytest.raises(KeyFileError, match="missing"):
        read_bundle(tmp_path / BUNDLE_FILE)


def test_fingerprints_can_be_compared_by_ear(identities, federation):
    printed = federation[0].fingerprint
    assert [len(group) for group in printed.split()] == [4] * 8
    assert len({one.card.fingerprint for one in identities.values()}) == len(NAMES)


def test_nothing_secret_is_shown(identities, key, federation):
    shown = repr(identities["b"]) + repr(federation[0]) + str(federation[0].to_json())
    private = identities["b"]._signing.private_bytes_raw().hex()
    assert private not in shown
    for secret in (key.tag, key.ckks.secret):
        assert secret.hex() not in shown + repr(key)
    assert np.frombuffer(key.ckks.secret, np.uint8).size > 1000


def test_a_burned_key_is_never_used_again_whatever_is_on_the_disk(directory, identities, key, federation):
    keys, (bundle, sealed) = directory("b"), federation
    keys.accept(identities["b"], bundle, sealed["b"])
    for _ in range(2):
        keys.burn(bundle)
        assert not (keys.path / KEY_FILE).exists()
        with pytest.raises(KeyBurnedError, match=r"epoch 1 was burned .*fedmm keys rotate"):
            keys.key(identities["b"], bundle)
    with pytest.raises(KeyBurnedError):
        keys.accept(identities["b"], bundle, sealed["b"])  # the invitation is still about
    (keys.path / KEY_FILE).write_bytes(sealed["b"])
    (keys.path / KEY_FILE).chmod(0o600)
    with pytest.raises(KeyBurnedError):
        KeyDirectory(keys.path).key(identities["b"], bundle)
    rotated, resealed = found(identities, SharedKey.generate(PARAMETERS), epoch=2)
    keys.accept(identities["b"], rotated, resealed["b"])
    assert keys.key(identities["b"], rotated).fingerprint == rotated.key_fingerprint


def test_a_kill_while_burning_leaves_a_burned_key(directory, identities, federation, monkeypatch):
    keys, (bundle, sealed) = directory("b"), federation
    keys.accept(identities["b"], bundle, sealed["b"])

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("privacy.aggregation.keys.erase", killed)
    with pytest.raises(KeyboardInterrupt):
        keys.burn(bundle)
    assert (keys.path / KEY_FILE).exists()
    assert stat.S_IMODE(os.stat(keys.path / BURNED_FILE).st_mode) == 0o600
    with pytest.raises(KeyBurnedError):
        KeyDirectory(keys.path).key(identities["b"], bundle)


def test_a_key_that_is_gone_without_a_mark_is_not_taken_back(directory, identities, federation, monkeypatch):
    """The disk was full while it was burned."""
    keys, (bundle, sealed) = directory("b"), federation
    keys.accept(identities["b"], bundle, sealed["b"])
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr("privacy.aggregation.keys.write_secret", full)
        with pytest.raises(OSError, match="No space"):
            keys.burn(bundle)
    assert [(keys.path / name).exists() for name in (KEY_FILE, BURNED_FILE)] == [False, False]
    with pytest.raises(KeyBurnedError, match="was burned"):
        keys.refuse_burned(bundle)  # this process knows
    with pytest.raises(KeyBurnedError, match="was given up"):
        KeyDirectory(keys.path).accept(identities["b"], bundle, sealed["b"])


@pytest.fixture(scope="module")
def parties():
    return {name: Identity.generate(name) for name in ("a", "b", "c", "d", "e", "z", SERVER)}


def made(parties, markets, epoch, colluders=1):
    """The bundle of some markets, the first of which founds it."""
    others = {name: parties[name].card for name in (*markets[1:], SERVER)}
    about = {"kind": "ckks", "colluders": colluders}
    return found_federation(parties[markets[0]], others, about, SharedKey.generate(None), epoch=epoch)


def test_markets_may_leave_and_none_may_take_over_or_come_unless_it_is_admitted(tmp_path, parties):
    keys = KeyDirectory(tmp_path / "b")
    for markets, epoch, problem in (
        ("abcde", 1, None),
        ("abcd", 2, None),
        ("abcde", 3, "market e would come"),  # one comes back
        ("abcz", 3, "market z would come"),
        ("bacd", 3, "another federation"),  # another founder
        ("abc", 2, "holds epoch 2"),
        ("ab", 3, "2 markets would be left, 3 are needed"),
        ("abc", 3, None),
    ):
        bundle, sealed = made(parties, markets, epoch)
        if problem is None:
            keys.accept(parties["b"], bundle, sealed["b"])
        else:
            with pytest.raises(KeyFileError, match=problem):
                keys.accept(parties["b"], bundle, sealed["b"])
    bundle, sealed = made(parties, "abcz", 4)
    with pytest.raises(KeyFileError, match="market z would come"):
        keys.accept(parties["b"], bundle, sealed["b"], {"z": parties["c"].card.fingerprint})
    keys.accept(parties["b"], bundle, sealed["b"], {"z": parties["z"].card.fingerprint})


def test_colluders_raise_the_number_that_must_be_left_and_a_new_bundle_cannot_lower_it(tmp_path, parties):
    keys = KeyDirectory(tmp_path / "b")
    bundle, sealed = made(parties, "abcde", 1, colluders=2)
    keys.accept(parties["b"], bundle, sealed["b"])
    fewer, resealed = made(parties, "abc", 2, colluders=0)
    with pytest.raises(KeyFileError, match="3 markets would be left, 4 are needed"):
        keys.accept(parties["b"], fewer, resealed["b"])
    enough, resealed = made(parties, "abcd", 2, colluders=2)
    keys.accept(parties["b"], enough, resealed["b"])


BAD_NAMES = ["", "../x", "a/b", ".", "-a", "_a", "A", "ä", "a b", "a\n", "a\x1b[2K", "a" * 65, "a\u202eb", "١", "=cmd"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_a_path_or_a_terminal_reads_otherwise_are_refused_on_reading(tmp_path, name):
    """The card is honestly signed: it is the name that is refused, in one line that shows no escape."""
    signing, sealing = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = {"signing": signing, "sealing": sealing}
    public = {use: key.public_key().public_bytes_raw().hex() for use, key in public.items()}
    text = b"fedmm-secure card\0" + canonical_json({"name": name, **public})
    path = tmp_path / CARD_FILE
    path.write_text(json.dumps({"name": name, **public, "proof": signing.sign(text).hex()}))
    with pytest.raises(KeyFileError, match="a party's name has") as caught:
        read_card(path)
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


def test_names_that_are_in_use_are_fine():
    for name in ("de", "m0", "m007", "a-b_c", "0", "a" * 64, SERVER):
        assert Identity.generate(name).card.name == name


@pytest.mark.parametrize("kind", ["ckks\x1b[2J", "", None, 7, "../x"])
def test_what_is_printed_beside_fingerprints_holds_no_escapes(identities, key, kind):
    others = {name: one.card for name, one in identities.items() if name != "a"}
    with pytest.raises(ValueError, match="a kind of aggregation"):
        found_federation(identities["a"], others, {"kind": kind}, key)


def test_a_market_cannot_be_the_server(parties):
    with pytest.raises(KeyFileError, match="card of its own"):
        found_federation(parties[SERVER], {"a": parties["a"].card}, {"kind": "ckks"}, SharedKey.generate(None))


def test_a_fingerprint_covers_both_secrets(key):
    other = SharedKey.generate(PARAMETERS)
    prints = {SharedKey(tag, ckks).fingerprint for tag in (key.tag, other.tag) for ckks in (key.ckks, other.ckks, None)}
    assert len(prints) == 6
    assert SharedKey.from_bytes(key.to_bytes()) == key
    for short in (b"", bytes(31)):
        with pytest.raises(ValueError, match="32 bytes"):
            SharedKey.from_bytes(short)
