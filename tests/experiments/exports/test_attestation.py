"""An in-toto statement in a DSSE envelope: what other tools check of it holds, and nothing in it can be changed."""

import base64
import hashlib
import json
import shutil

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope

from experiments.compliance.judgement import document_verdict
from experiments.compliance.signing import ReportError, sign
from experiments.exports.attestation import ATTESTATION_FILE, attest, envelope_text
from experiments.exports.attestation_check import verify_attestation
from privacy.aggregation.identities import Identity
from privacy.json_text import json_text
from tests.command_line import fedmm
from tests.experiments.exports.conftest import account_of
from tests.released import signers_card

# protocol.md of the DSSE specification, "Test Vectors"
VECTOR = ("http://example.com/HelloWorld", b"hello world", b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")
MALLORY = Identity.generate("mallory")


def encoding(payload_type, payload):
    """Pre-authentication encoding, by the specification's words."""
    kind = payload_type.encode()
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])


def opened(path):
    """Envelope as JSON, and the statement in it."""
    envelope = json.loads(path.read_text())
    return envelope, json.loads(base64.b64decode(envelope["payload"]))


def test_what_is_signed_is_the_encoding_of_the_specification():
    payload_type, payload, expected = VECTOR
    assert Envelope(payload, payload_type, {}).pae() == encoding(payload_type, payload) == expected


def test_anybody_with_the_card_can_check_the_envelope(exported):
    envelope, statement = opened(exported / ATTESTATION_FILE)
    card = json.loads(signers_card(exported).read_text())
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(card["signing"]))
    payload, (signature,) = base64.b64decode(envelope["payload"]), envelope["signatures"]
    key.verify(base64.b64decode(signature["sig"]), encoding(envelope["payloadType"], payload))
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature["sig"]), payload)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:fedmm-secure:compliance-report:10"
    assert statement["predicate"] == json.loads((exported / "compliance.json").read_text())


def test_its_subjects_are_the_files_by_their_digests(exported):
    subjects = {one["name"]: one["digest"]["sha256"] for one in opened(exported / ATTESTATION_FILE)[1]["subject"]}
    assert subjects == {name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in subjects}
    models = {f"models/{market}/{kind}-0.pt" for market in ("m0", "m1", "m2") for kind in ("quantizer", "ctr")}
    ledgers = {f"ledger/{market}.jsonl" for market in ("m0", "m1", "m2")}
    assert subjects.keys() == models | ledgers | {"compliance.json", "config.yaml", "environment.json", "metrics.json"}


def test_an_untouched_envelope_is_accepted_beside_its_run_and_alone(exported, tmp_path, capsys):
    account = ("--account", account_of(exported))
    status, out, err = fedmm(capsys, "verify", exported / ATTESTATION_FILE, "--card", signers_card(exported), *account)
    assert (status, err) == (0, "")
    assert "signed by auditor" in out
    assert verify_attestation(shutil.copy(exported / ATTESTATION_FILE, tmp_path / "envelope"))[1] == []


def test_a_changed_model_or_report_is_no_longer_what_was_attested(exported_copy):
    model, beside = exported_copy / "models" / "m0" / "ctr-0.pt", exported_copy / "compliance.json"
    model.write_bytes(model.read_bytes() + b"\0")
    beside.write_text(beside.read_text() + " ")
    _, findings = verify_attestation(exported_copy / ATTESTATION_FILE, account=account_of(exported_copy))
    said = [found.what for found in findings]
    assert any("markets.m0.shown.models/m0/ctr-0.pt" in what for what in said)
    assert any("compliance.json is another file than" in what for what in said)


def spelled(statement):
    return json_text(statement, separators=(",", ":"), ensure_ascii=False).encode()


def resigned(envelope, payload, identity=MALLORY, keyid=None):
    signature = identity.sign(encoding(envelope["payloadType"], payload))
    keyid = keyid or envelope["signatures"][0]["keyid"]
    signatures = [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}]
    return {**envelope, "payload": base64.b64encode(payload).decode(), "signatures": signatures}


def other_digest(envelope, statement):
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    return {**envelope, "payload": base64.b64encode(spelled(statement)).decode()}


def other_digest_signed_by_another(envelope, statement):
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    return resigned(envelope, spelled(statement))


def other_epsilon(envelope, statement):
    statement["predicate"]["document"]["markets"]["m0"]["views"]["release"]["epsilon"] = 0.1
    return resigned(envelope, spelled(statement))


def other_type(envelope, statement):
    return {**envelope, "payloadType": "application/json"}


def other_predicate_type(envelope, statement):
    return resigned(envelope, spelled({**statement, "predicateType": "urn:another"}))


def other_key(envelope, statement):
    return resigned(envelope, base64.b64decode(envelope["payload"]), keyid=MALLORY.card.fingerprint)


def second_signature(envelope, statement):
    return {**envelope, "signatures": [*envelope["signatures"], {"keyid": "another", "sig": "AAAA"}]}


def no_signature(envelope, statement):
    return {**envelope, "signatures": []}


def more_beside(envelope, statement):
    return {**envelope, "note": "approved"}


@pytest.mark.parametrize(
    "change",
    [
        other_digest,
        other_digest_signed_by_another,
        other_epsilon,
        other_type,
        other_predicate_type,
        other_key,
        second_signature,
        no_signature,
        more_beside,
    ],
)
def test_nothing_in_an_envelope_can_be_changed(exported, tmp_path, change):
    path = tmp_path / "envelope.json"
    path.write_text(json.dumps(change(*opened(exported / ATTESTATION_FILE)), indent=2) + "\n")
    assert verify_attestation(path)[1]


def test_the_report_in_it_has_to_be_its_signers(exported, report, tmp_path):
    path = tmp_path / "envelope.json"
    said = report.document.declarations.model_copy(update={"signer": MALLORY.card.fingerprint})
    forged = report.document.model_copy(update={"declarations": said})
    forged = forged.model_copy(update={"verdict": document_verdict(forged)})
    path.write_text(envelope_text(attest(sign(forged, MALLORY), MALLORY)))
    assert verify_attestation(path)[1] == []  # whoever names no card believes whoever signed
    card = Identity.load(signers_card(exported).parent).card
    assert any("not by auditor" in found.what for found in verify_attestation(path, trusted=card)[1])


@pytest.mark.parametrize("payload", ["", "e30=", "bnVsbA==", "!!", 3, None])
def test_what_is_no_envelope_is_refused_in_one_line(tmp_path, capsys, payload):
    path = tmp_path / "envelope.json"
    path.write_text(json.dumps({"payload": payload, "payloadType": "application/vnd.in-toto+json", "signatures": []}))
    with pytest.raises(ReportError, match="envelope"):
        verify_attestation(path)
    assert fedmm(capsys, "verify", path)[0] == 2
