"""Reports, envelopes and cards in which any one value is another: a finding or one line, never a traceback.

What the first version did with them is one line each: it took a half character, an endless number and a card without
keys as JSON gives them, and stumbled where it wrote, compared or printed them.
"""

import base64
import copy
import json
import random

import pytest

from experiments.compliance.signing import report_text, sign
from experiments.exports.attestation import attest, envelope_text
from privacy.aggregation.identities import Card, Identity
from tests.adversary.test_compliance import VIEWS, document
from tests.command_line import call

BAD = [10**400, 2**63, -1, 0, 1e308, "", [], {}, None, True, "\ud800", "x" * 3000, "\x1b[31m\n=1", "../../x", [[]],
       {"a": {}}, [None], "\0", {"\ud800": 1}, 0.5, "inf", ["\ud800"], {"\x1b[31m": 1}]  # fmt: skip
MUTATIONS = 150


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):
            yield from places(value[index], (*path, index))


def mutated(value, chooser):
    """A copy with one value that is another, or gone."""
    found = copy.deepcopy(value)
    path = chooser.choice(list(places(found)))
    if not path:
        return chooser.choice(BAD)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if chooser.random() < 0.15:
        del inner[path[-1]]
    else:
        inner[path[-1]] = chooser.choice(BAD)
    return found


@pytest.fixture(scope="module")
def signed():
    identity = Identity.generate("auditor")
    found = sign(document(declared={"signer": identity.card.fingerprint}), identity)
    return json.loads(report_text(found)), json.loads(envelope_text(attest(found, identity)))


def answers(capsys, path, content):
    """Exit status; whatever else is raised fails the test."""
    path.write_text(json.dumps(content))
    status = call("verify", path)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "Traceback" not in shown.err
    return status


def test_any_value_of_a_report_may_be_another(signed, tmp_path, capsys):
    report, _ = signed
    chooser = random.Random(0)
    assert {answers(capsys, tmp_path / "r.json", mutated(report, chooser)) for _ in range(MUTATIONS)} <= {1, 2}


def test_any_value_of_an_envelope_may_be_another(signed, tmp_path, capsys):
    _, envelope = signed
    chooser, path = random.Random(1), tmp_path / "e.json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    for _ in range(MUTATIONS):
        inside = json.dumps(mutated(statement, chooser)).encode()
        changed = {**envelope, "payload": base64.b64encode(inside).decode()}
        outside = mutated(envelope, chooser)
        assert answers(capsys, path, chooser.choice([changed, outside])) in (1, 2)


def test_any_value_of_a_card_may_be_another(signed, tmp_path, capsys):
    card = signed[0]["signature"]["card"]
    chooser, path = random.Random(2), tmp_path / "card.json"
    for _ in range(MUTATIONS):
        path.write_text(json.dumps(mutated(card, chooser)))
        assert call("keys", "show", path) in (0, 2)
        assert "\x1b" not in capsys.readouterr().out


def test_what_one_who_takes_json_as_it_comes_stumbles_over():
    with pytest.raises(UnicodeEncodeError):
        json.loads('"\\ud800"').encode()
    with pytest.raises(ValueError, match="limit"):
        str(json.loads("1" * 4299) * 10**10)
    with pytest.raises(TypeError):
        Card(**{"name": "auditor"})


@pytest.mark.parametrize("view", VIEWS)
def test_a_report_without_a_view_is_none(signed, tmp_path, capsys, view):
    report = copy.deepcopy(signed[0])
    del report["document"]["markets"]["m"]["views"][view]
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert call("verify", tmp_path / "r.json") == 2
    assert "the views are" in capsys.readouterr().err
