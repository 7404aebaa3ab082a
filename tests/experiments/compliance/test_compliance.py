"""A compliance report says what the run gives, refuses what it must, and notices any change."""

import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from experiments.assessment.attack import attack_run
from experiments.assessment.statements import (
    add_statement,
    attacks_file,
    audit_file,
    make_statement,
    read_evidence_file,
)
from experiments.compliance.build import build_document
from experiments.compliance.check import verify_report
from experiments.compliance.document import Declarations, SignedReport, published_schema, schema
from experiments.compliance.evidence import SELF_SIGNED, UNSIGNED, examine
from experiments.compliance.judgement import colour, document_verdict
from experiments.compliance.signing import page
from experiments.runs.configuration import resolve
from fedmm_secure.federation.closing import closing_text
from privacy.accounting.ledger import GENESIS, encode_line
from privacy.aggregation.identities import Identity
from tests.command_line import call, fedmm
from tests.conftest import STATE, TINY
from tests.people import as_files
from tests.recalled import examining_once

pytestmark = pytest.mark.usefixtures("few_trees", "words_alone")

DP = {
    "privacy.epsilon": 8,
    "privacy.protect": "release",
    "privacy.ctr.steps": 4,
    "privacy.quantizer.steps_per_round": 1,
}
SMALL = TINY | {"ctr": {"baselines": ["popularity"]}, "federation": {"rounds": 1}}
JUDGE = Identity.generate("auditor")  # of evidence
OWNER = Identity.generate("owner")
KNOWN = [{"name": known.card.name, "fingerprint": known.card.fingerprint} for known in (JUDGE, OWNER)]
SAID = {"signer": None, "trusted": KNOWN, "sole_run": False, "max_epsilon": 10, "max_delta": None}
LIMIT = ("--max-epsilon", 20)
AUDIT = {"stage": "ctr", "game": "crafted user", "claimed": 1.0, "detects": 1.5, "low_fdp": 0.5,
         "low_one_run": None, "canaries": 500, "verdict": "not refuted", "needed": None, "seconds": 1.0,
         "p_value": 0.5, "level": 0.005}  # fmt: skip
BETTER = {"value": 0.9, "low": 0.8, "high": 1.0}
BOUND = {"epsilon": 8.0, "delta": 1e-3, "verdict": "within", "detects": 12.0, "targets": 960}
MEMBERSHIP = {"market": "m0", "target": "fedmm", "attack": "LiRA", "unit": "user", "view": "release", "auc": BETTER,
              "tpr_at_1_percent_fpr": BETTER, "bound": BOUND}  # fmt: skip


def run_tiny(out, signer=None, **settings):
    config = out.parent / f"{out.name}.yaml"
    out.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(as_files(out.parent / "markets", **SMALL)))
    settings |= {"privacy.account": out.parent / "privacy.account"}  # beside it: it is copied with the run
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    signing = () if signer is None else ("--sign", signer)
    assert call("run", config, "--out", out, "--quiet", *changes, *signing) == 0
    return out


@pytest.fixture(scope="module")
def words_alone():
    """No figures are drawn, and a run that is the same byte by byte is examined once: its copies are many here."""
    with patch("experiments.reports.run.run_drawings", lambda *_: {}), examining_once():
        yield


@pytest.fixture(autouse=True)
def readers_account(monkeypatch, tmp_path):
    """A reader's account is never the one that lies with a run: here it happens to be."""
    monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "runs" / "privacy.account"))


@pytest.fixture(scope="module")
def auditor(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "auditor"
    assert call("keys", "join", "auditor", "--keys", keys) == 0
    return keys


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "owner"
    OWNER.save(keys)
    return keys


@pytest.fixture(scope="module")
def original(tmp_path_factory, auditor, owner):
    """A run with a budget for everything, closed by its owner, and its signed report."""
    out = run_tiny(tmp_path_factory.mktemp("runs") / "run", owner, **DP)
    account = out.parent / "privacy.account"
    assert call("report", out, "--compliance", "--sign", auditor, "--account", account, *LIMIT) == 0
    return out


@pytest.fixture
def signed(original, tmp_path):
    return copied(original.parent, tmp_path) / "run"


@pytest.fixture(scope="module")
def used_again(original, tmp_path_factory):
    """Its folder, once the same configuration ran on the same data another time, as ``second``, which nobody signed."""
    return gone_on(original.parent, tmp_path_factory.mktemp("again"), "second", **DP)


@pytest.fixture(scope="module")
def tuned(original, tmp_path_factory):
    """Its folder, once a run without a budget used the same data, as ``tuning``."""
    return gone_on(original.parent, tmp_path_factory.mktemp("tuned"), "tuning")


def gone_on(folder, elsewhere, name, **settings):
    """A copy of runs in which another one follows, on a machine that saw their account go on in no other way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE, str(elsewhere / "state"))
        run_tiny(copied(folder, elsewhere) / name, **settings)
    return elsewhere / "runs"


def copied(folder, tmp_path):
    """A copy of runs, their account and data that may be changed."""
    return shutil.copytree(folder, tmp_path / "runs")


def data(run):
    return json.loads((run / "compliance.json").read_text())


def test_the_json_fits_the_published_schema(signed):
    import jsonschema  # a second, which every process that collects tests would spend

    jsonschema.validate(data(signed), published_schema(), jsonschema.Draft202012Validator)
    broken = data(signed)
    broken["document"]["markets"]["m0"]["views"]["market"]["epsilon"] = "eight"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, published_schema(), jsonschema.Draft202012Validator)


def test_the_published_schema_is_that_of_the_code(capsys):
    assert published_schema() == schema()
    status, out, _ = fedmm(capsys, "report", "--schema")
    assert (status, json.loads(out)) == (0, schema())


def test_it_says_what_the_ledger_gives(signed):
    document, metrics = data(signed)["document"], json.loads((signed / "metrics.json").read_text())
    assert document["verdict"] == {"compliant": True, "reasons": [], "open": document["verdict"]["open"]}
    assert any("not audited" in item for item in document["verdict"]["open"])
    for market, views in metrics["privacy"]["markets"].items():
        stated = document["markets"][market]
        for view in ("market", "release", "profile"):
            assert stated["views"][view]["epsilon"] == views[view]["epsilon"]
        every = {view: views[view]["epsilon"] for view in ("server", "market", "collusion", "consumer", "release")}
        assert stated["all_runs"] == {
            "runs": 1,
            "problem": None,
            "without_bound": 0,
            "as_planned": True,
            "epsilon": pytest.approx(every, rel=2e-3),  # composed more coarsely
            "ledger_runs": 1,
            "ledger_epsilon": every,
            "ceiling": None,
        }
        last = (signed / "ledger" / f"{market}.jsonl").read_text().splitlines()[-1]
        assert stated["ledger"]["head"] == json.loads(last)["hash"]


@pytest.mark.parametrize("name", ["compliance.json", "compliance.html"])
def test_an_untouched_report_is_accepted(signed, auditor, capsys, name, tmp_path):
    card = auditor / "card.json"
    status, out, err = fedmm(capsys, "verify", signed / name, "--card", card)
    assert (status, err) == (0, "")
    assert "signed by auditor" in out
    alone = shutil.copy(signed / name, tmp_path / name)  # without its run the signature has to do
    assert fedmm(capsys, "verify", alone)[0] == 0
    assert fedmm(capsys, "verify", alone, "--run", signed)[0] == 0


def every_number(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from every_number(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from every_number(inner, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def changed(report, path):
    copy = json.loads(json.dumps(report))
    section = copy
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = section[path[-1]] + 1 if isinstance(section[path[-1]], int) else section[path[-1]] * 0.5 + 1e-9
    return copy


def test_one_changed_number_is_noticed_wherever_it_is(signed, tmp_path, capsys):
    report, paths = data(signed), list(every_number(data(signed)["document"]))
    assert len(paths) > 100
    lonely = tmp_path / "alone.json"
    for path in paths[::17]:
        lonely.write_text(json.dumps(changed(report, ("document", *path))))
        status, _, err = fedmm(capsys, "verify", lonely)
        assert status == (2 if "not a compliance report" in err else 1), path


def test_who_signed_what_is_said_to_machines_too(signed, capsys):
    card = data(signed)["signature"]["card"]
    status, out, _ = fedmm(capsys, "verify", signed / "compliance.json", "--json")
    found = json.loads(out)
    assert (status, found["findings"], found["signer"], found["verdict"]) == (0, [], card["name"], "compliant")
    assert f"card {found['card']}" in fedmm(capsys, "verify", signed / "compliance.json")[1]


def test_a_changed_number_in_an_unsigned_report_is_found_against_the_run(signed, capsys):
    assert call("report", signed, "--compliance", *LIMIT) == 0
    assert fedmm(capsys, "verify", signed / "compliance.json")[0] == 0
    report = data(signed)
    report["document"]["markets"]["m1"]["views"]["release"]["epsilon"] = 0.5
    report["document"]["questions"] = report["document"]["questions"]
    (signed / "compliance.json").write_text(json.dumps(report))
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json")
    assert status == 1
    assert "markets.m1.views.release.epsilon: says 0.5" in err


def test_an_unsigned_report_away_from_its_run_proves_nothing(signed, tmp_path, capsys):
    assert call("report", signed, "--compliance", *LIMIT) == 0
    alone = shutil.copy(signed / "compliance.json", tmp_path / "alone.json")
    status, _, err = fedmm(capsys, "verify", alone)
    assert status == 1
    assert "not signed" in err


def test_a_page_that_shows_another_number_is_noticed(signed, capsys):
    path = signed / "compliance.html"
    html = path.read_text()
    body, embedded = html.split('<script type="application/json"')
    shown = re.search(r"<td>(\d\.\d+)</td>", body)
    path.write_text(body.replace(shown[0], "<td>0.1</td>", 1) + '<script type="application/json"' + embedded)
    status, _, err = fedmm(capsys, "verify", path)
    assert status == 1
    assert "the page does not show" in err


def test_another_signer_is_not_taken_for_the_expected_one(signed, tmp_path, capsys):
    assert call("keys", "join", "auditor", "--keys", tmp_path / "mallory") == 0
    assert call("report", signed, "--compliance", "--sign", tmp_path / "mallory", *LIMIT) == 0
    right, wrong = tmp_path / "mallory" / "card.json", tmp_path / "other" / "card.json"
    assert call("keys", "join", "auditor", "--keys", tmp_path / "other") == 0
    assert fedmm(capsys, "verify", signed / "compliance.json", "--card", right)[0] == 0
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json", "--card", wrong)
    assert status == 1
    assert "is signed by auditor" in err


def test_a_self_signed_lie_does_not_follow_from_its_contents(signed, tmp_path, capsys):
    """Whoever has a key can sign anything; a verdict must still follow from what the report holds."""
    from experiments.compliance.signing import sign, write_report_files
    from privacy.aggregation.identities import Identity

    document = build_document(signed, Declarations(**{**SAID, "max_epsilon": 0.5}))
    assert not document.verdict.compliant
    lie = document.model_copy(
        update={"verdict": document.verdict.model_copy(update={"compliant": True, "reasons": []})}
    )
    write_report_files(tmp_path, sign(lie, Identity.generate("mallory")))
    status, _, err = fedmm(capsys, "verify", tmp_path / "compliance.json")
    assert status == 1
    assert "verdict does not follow" in err


def rewritten(path, run, signer):
    """The ledger of a market on other data, chained and closed anew."""
    lines, head = [], GENESIS
    for number, raw in enumerate(path.read_bytes().splitlines()):
        found = json.loads(raw)
        kind, body = found["kind"], found["body"]
        if kind == "open":
            body["commitments"]["data"] = "ab" * 32
        if kind == "charge" and body["data"]:
            body["data"] = "ab" * 32
        if kind == "close":
            statement = {key: value for key, value in body["statement"].items() if key not in ("card", "signature")}
            value = signer.sign(closing_text(path.stem, run, head, statement)).hex()
            body = {"statement": {**statement, "card": asdict(signer.card), "signature": value}}
        line, head = encode_line(kind, body, number, head)
        lines.append(line)
    path.write_bytes(b"".join(lines))
    return head


def test_a_ledger_that_its_owner_rewrites_no_longer_fits_the_report(signed, owner, capsys):
    """It passes a check of the run alone: nothing in it is secret from its owner. The signed head hash tells."""
    document = data(signed)["document"]
    path = signed / "ledger" / "m0.jsonl"
    head = rewritten(path, document["run"]["id"], Identity.load(owner))
    assert call("report", signed) == 0  # its page names the rows by their fingerprint
    assert call("verify", signed) == 0
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json")
    assert status == 1
    assert "markets.m0.ledger.head" in err
    assert head in err
    rewritten(path, document["run"]["id"], Identity.generate("somebody"))  # who lacks the owner's key signs as another
    assert "markets.m0.ledger.closed_by" in fedmm(capsys, "verify", signed / "compliance.json")[2]


def refusal(run, capsys, *options):
    status, out, _ = fedmm(
        capsys, "report", run, "--compliance", *(() if "--max-epsilon" in options else LIMIT), *options
    )
    assert (status == 0) == ("not compliant" not in out)
    assert data(run)["document"]["verdict"]["compliant"] == (status == 0)
    return "\n".join(line for line in out.splitlines() if line.startswith("not compliant"))


def test_it_refuses_noise_from_a_seed(tmp_path, capsys):
    run = run_tiny(tmp_path / "runs" / "seeded", **DP, **{"privacy.noise_seed": 1})
    assert "known seed" in refusal(run, capsys)


def test_it_refuses_a_run_without_a_budget(tuned, tmp_path, capsys):
    run = copied(tuned, tmp_path) / "tuning"
    found = refusal(run, capsys)
    assert "no bound on what the market view learns" in found
    assert "no bound" in refusal(run, capsys, "--declare-sole-run")  # no declaration makes up for it


def test_it_refuses_a_ledger_that_does_not_verify(signed, capsys):
    path = signed / "ledger" / "m1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert "does not verify" in refusal(signed, capsys)
    path.write_text("".join(lines[1:]))
    assert "does not verify" in refusal(signed, capsys)


def audited(run, market, identity=None, folder=None, **changes):
    """Write the results of an audit as ``fedmm audit`` does."""
    statement = make_statement(
        run, "audit", {"level": 0.05}, {"audit": [{**AUDIT, "market": market, **changes}]}, identity
    )
    add_statement(run, audit_file(run, folder or market), statement)


def attacked(run, identity=None, **changes):
    made = [{**MEMBERSHIP, "view": view, **changes} for view in ("market", "release")]
    statement = make_statement(run, "attack", {"shadows": 4}, {"membership": made}, identity)
    add_statement(run, attacks_file(run), statement)


def document_of(run, **declared):
    return build_document(run, Declarations(**{**SAID, **declared}))


@pytest.fixture(scope="module")
def judge_of_evidence():
    return JUDGE


@pytest.mark.parametrize("is_signed", [True, False])
def test_it_refuses_when_an_audit_says_violated(signed, judge_of_evidence, is_signed):
    """Nobody has to sign what speaks against a claim."""
    audited(signed, "m2", judge_of_evidence if is_signed else None, verdict="VIOLATED", low_fdp=2.0)
    assert document_of(signed).verdict.reasons == ["m2: the audit of the code refutes the claim of ctr (crafted user)"]


@pytest.mark.parametrize("is_signed", [True, False])
def test_it_refuses_an_attack_beyond_the_bound(signed, judge_of_evidence, is_signed):
    identity = judge_of_evidence if is_signed else None
    for verdict, compliant in (("within", True), ("BEYOND", False)):
        attacked(signed, identity, bound={**BOUND, "verdict": verdict})
        assert document_of(signed).verdict.compliant is compliant
    attacked(signed, identity, bound=None)
    assert document_of(signed).verdict.compliant


def test_evidence_that_counts_leaves_nothing_open(signed, judge_of_evidence):
    for market in ("m0", "m1", "m2"):
        assert colour(document_of(signed)) == "open"
        audited(signed, market, judge_of_evidence)
    assert document_of(signed).verdict.open == ["not attacked: no attack on this run counts"]
    attacked(signed, judge_of_evidence)
    document = document_of(signed)
    assert document.verdict.open == []
    assert colour(document) == "good"
    assert {item.fingerprint for item in document.evidence} == {judge_of_evidence.card.fingerprint}
    assert "2 attacks" in next(q.answer for q in document.questions if q.topic.startswith("testing"))


def test_unsigned_evidence_counts_for_nothing(signed):
    audited(signed, "m0")
    attacked(signed)
    document = document_of(signed)
    assert document.verdict.compliant
    assert f"audit/m0/audit.json#1: {UNSIGNED}" in document.verdict.open
    assert f"attacks/attacks.json#1: {UNSIGNED}" in document.verdict.open
    assert any(item.startswith("code not audited at the plans of m0, m1, m2") for item in document.verdict.open)
    assert any(item.startswith("not attacked") for item in document.verdict.open)


def test_a_key_of_the_run_itself_vouches_for_nothing(signed):
    audited(signed, "m0", Identity.load(signed / "state" / "keys" / "m1"))
    assert f"audit/m0/audit.json#1: {SELF_SIGNED}" in document_of(signed).verdict.open


def edited(path, change):
    data = json.loads(path.read_text())
    change(data["statements"][0])
    path.write_text(json.dumps(data))


def test_a_violated_audit_that_was_edited_is_noticed(signed, judge_of_evidence, auditor, capsys):
    audited(signed, "m0", judge_of_evidence, verdict="VIOLATED", low_fdp=2.0)
    path = audit_file(signed, "m0")
    edited(path, lambda statement: statement["results"]["audit"][0].update(verdict="not refuted"))
    assert "audit/m0/audit.json#1: its signature does not hold" in refusal(signed, capsys)
    edited(path, lambda statement: statement.update(signature=None))  # then it is nobody's
    assert "unsigned" in fedmm(capsys, "report", signed, "--compliance", *LIMIT)[1]
    path.unlink()
    assert any(item.startswith("code not audited at the plans of m0") for item in document_of(signed).verdict.open)


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement["results"].pop("audit"),
        lambda statement: statement["results"]["audit"].clear(),
        lambda statement: statement["settings"].update(level=0.5),
        lambda statement: statement["binding"].update(code="0" * 64),
        lambda statement: statement.update(created="2020-01-01T00:00:00+00:00"),
        lambda statement: statement["signature"]["card"].update(name="somebody"),
    ],
)
def test_nothing_in_a_signed_statement_can_be_changed_or_left_out(signed, judge_of_evidence, change):
    audited(signed, "m0", judge_of_evidence)
    edited(audit_file(signed, "m0"), change)
    assert not document_of(signed).verdict.compliant


def test_evidence_of_another_run_is_not_evidence_of_this_one(used_again, tmp_path, judge_of_evidence):
    folder = copied(used_again, tmp_path)
    signed, other = folder / "run", folder / "second"
    audited(other, "m0", judge_of_evidence)
    attacked(other, judge_of_evidence)
    for path in (audit_file(signed, "m0"), attacks_file(signed)):
        path.parent.mkdir(parents=True)
        shutil.copy(other / path.relative_to(signed), path)
    assert [item.stated.standing for item in examine(other)] == ["counts", "counts"]
    verdict = document_of(signed).verdict
    assert "audit/m0/audit.json#1: of another run" in verdict.open
    assert "attacks/attacks.json#1: of another run" in verdict.open
    assert any(item.startswith("code not audited at the plans of m0, m1, m2") for item in verdict.open)


def test_evidence_of_another_market_or_kind_does_not_stand_for_this_one(signed, judge_of_evidence):
    audited(signed, "m0", judge_of_evidence, folder="m1")
    assert any(item.startswith("code not audited at the plans of m1, m2;") for item in document_of(signed).verdict.open)
    attacks_file(signed).parent.mkdir()
    shutil.copy(audit_file(signed, "m1"), attacks_file(signed))
    assert "holds results of an audit" in "".join(document_of(signed).verdict.reasons)


def test_evidence_of_other_ledgers_or_other_code_is_not_bound(signed, judge_of_evidence):
    audited(signed, "m0", judge_of_evidence)
    path = signed / "ledger" / "m2.jsonl"
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    assert "audit/m0/audit.json#1: of another state of the ledgers" in document_of(signed).verdict.open
    path.write_bytes(content)
    audit_file(signed, "m0").unlink()
    with patch("experiments.assessment.statements.code_version", lambda: "f" * 64):
        audited(signed, "m0", judge_of_evidence)
    assert "audit/m0/audit.json#1: computed by other code than that of the run" in document_of(signed).verdict.open


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 10_000,
        '{"level": 0.05, "results": []}',  # of an earlier version
        '{"format": "fedmm-secure evidence", "version": 2, "statements": [{}]}',
    ],
)
def test_results_that_cannot_be_read_are_named(signed, content):
    path = audit_file(signed, "m0")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert "audit/m0/audit.json: not " in "".join(document_of(signed).verdict.reasons)


def test_signed_nonsense_is_not_read_as_results(signed, judge_of_evidence):
    attacks = make_statement(signed, "attack", {}, {"membership": [{"market": "m0"}]}, judge_of_evidence)
    add_statement(signed, attacks_file(signed), attacks)
    assert "attacks/attacks.json#1: its results cannot be read" in document_of(signed).verdict.reasons


def test_results_outside_the_run_directory_are_not_followed(signed, judge_of_evidence, tmp_path):
    audited(signed, "m0", judge_of_evidence)
    path = audit_file(signed, "m0")
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert "is a link, or leads through one" in "".join(document_of(signed).verdict.reasons)


def test_an_unsigned_rerun_does_not_replace_what_somebody_signed(signed, judge_of_evidence):
    audited(signed, "m0", judge_of_evidence, verdict="VIOLATED", low_fdp=2.0)
    audited(signed, "m0")
    audited(signed, "m0")
    statements = read_evidence_file(signed, audit_file(signed, "m0"))
    assert [statement.signature is not None for statement in statements] == [True, False]
    assert not document_of(signed).verdict.compliant
    audited(signed, "m0", judge_of_evidence)  # who signed it may
    assert document_of(signed).verdict.compliant


def test_whoever_signs_takes_no_shadow_in_the_directory_for_trained(signed):
    kept = []

    def membership(attacked):
        kept.append(attacked.shadows.directory)
        return [MEMBERSHIP]

    with patch("experiments.assessment.membership.infer_membership", membership):
        rows = signed.parent / "markets"
        attack_run(signed, attacks=["membership"], data=rows)
        attack_run(signed, attacks=["membership"], data=rows, identity=Identity.generate("auditor"))
    assert kept[0] == signed / "attacks"
    assert not kept[1].is_relative_to(signed.parent)
    assert [item.stated.standing for item in examine(signed)] == ["counts"]


def test_the_first_screen_is_green_only_where_nothing_is_open(
    signed, judge_of_evidence, owner, tmp_path, capsys, monkeypatch
):
    judge_of_evidence.save(tmp_path / "document_verdict")
    trust = ("--trust", owner / "card.json", "--trust", tmp_path / "document_verdict" / "card.json")

    def screens():
        call("report", signed, *trust)
        call("report", signed, "--compliance", *trust, *LIMIT)
        pages = (signed / "report.html").read_text(), (signed / "compliance.html").read_text()
        return [re.search(r'class="glance (\w+)"', html)[1] for html in pages], pages

    colours, pages = screens()
    assert colours == ["open", "open"]
    for html in pages:
        first = html.split("</section>")[0]
        assert "not audited" in first
        assert "not attacked" in first
        assert "outside the guarantee" in first
        assert 'class="figure good"' not in first
    assert "<code>fedmm attack run --data FOLDER</code>" in pages[0]  # its rows were read from files
    for market in ("m0", "m1", "m2"):
        audited(signed, market, judge_of_evidence)
    attacked(signed, judge_of_evidence)
    colours, pages = screens()
    assert colours == ["open", "good"]
    assert "Open: compared with no baseline of the same protection and budget." in pages[0]  # nothing else is
    html, told = (signed / "report.html").read_text(), fedmm(capsys, "verify", signed)
    assert told[0] == 0  # the page is what the run gives to who trusts those cards, which the page names
    assert "whose writer vouches for the cards" in told[1]
    assert "whose owner the writer of this page knows" in html
    (signed / "report.html").write_text(
        html.replace('<meta name="trusted" content="', '<meta name="trusted" content="00')
    )
    assert fedmm(capsys, "verify", signed)[0] == 1
    call("report", signed)  # nobody vouches for a key
    html = (signed / "report.html").read_text()
    assert f"nobody has vouched for card {JUDGE.card.fingerprint} here: --trust CARD" in html
    assert "report&#39;s signer" not in html  # it has none
    block = [
        shlex.split(line, comments=True) for line in re.search(r"<pre[^>]*>(cd .*?)</pre>", html, re.S)[1].splitlines()
    ]
    monkeypatch.chdir(signed.parent / block[0][1])
    assert resolve(block[1][2]).quantizer.latent_dim == SMALL["quantizer"]["latent_dim"]
    assert Path(block[1][4]).resolve() == signed.parent / "again"
    assert block[2] == ["fedmm", "verify", "."]
    assert call(*block[2][1:]) == 0
    page = html.split("</section>")[0]
    assert "a key that nobody here vouches for" in page
    assert "audited, by results that do not count" in page
    edited(audit_file(signed, "m0"), lambda statement: statement.update(created="2020-01-01T00:00:00+00:00"))
    assert screens()[0] == ["bad", "bad"]


def test_it_refuses_an_epsilon_beyond_the_limit(signed, capsys):
    assert "exceeds the limit 2" in refusal(signed, capsys, "--max-epsilon", 2)


def test_noisy_test_figures_are_told_from_exact_ones(signed):
    document = document_of(signed)
    assert "test figures (AUC, LogLoss and others) are exact" in document.not_guaranteed[0]
    path = signed / "metrics.json"
    metrics = json.loads(path.read_text())
    for views in metrics["privacy"]["markets"].values():
        views["stages"]["evaluation"] = views["stages"]["ctr"]
    path.write_text(json.dumps(metrics))
    document = document_of(signed)
    assert not any("test figures" in found for found in document.not_guaranteed)
    assert document.not_guaranteed[0].startswith("the success of attacks")


def test_runs_on_the_same_data_count_and_later_ones_too(used_again, tmp_path, capsys):
    """Choosing the first of two runs has looked at both."""
    signed = copied(used_again, tmp_path) / "run"
    single = data(signed)["document"]["markets"]["m0"]["all_runs"]["epsilon"]["release"]
    assert refusal(signed, capsys) == ""
    document = data(signed)["document"]
    together = document["markets"]["m0"]["all_runs"]
    assert together["runs"] == 2
    assert single * 1.2 < together["epsilon"]["release"] < 2 * single
    assert "of all runs on the data" in document["questions"][1]["answer"]


def test_it_refuses_a_delta_above_one_over_n(signed, capsys):
    users = {name: market.users for name, market in document_of(signed).markets.items()}
    assert document_of(signed, max_delta=max(n**-1.1 for n in users.values())).verdict.compliant
    assert "exceeds the limit 1e-05" in refusal(signed, capsys, "--max-delta", 1e-5)
    path = signed / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["markets"]["m1"]["n_users"] = 8_000  # at which the delta of 80 users is no longer small
    path.write_text(json.dumps(metrics))
    found = refusal(signed, capsys)
    assert "m1: δ 8.1e-03 exceeds 1/n^1.1 of its 8000 users, 5.1e-05" in found
    assert "exceeds 1/n^1.1" in refusal(signed, capsys, "--max-delta", 0.5)  # a policy can only ask for more


def test_it_refuses_a_ledger_that_the_run_closed_itself(used_again, tmp_path, capsys):
    run = copied(used_again, tmp_path) / "second"
    assert refusal(run, capsys) == (
        "not compliant: m0, m1, m2: the ledger is closed with a key that the run made itself: whoever has the "
        "directory could rewrite it"
    )


def test_it_refuses_a_ledger_without_its_end(signed, capsys):
    for path in (signed / "ledger").glob("*.jsonl"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert "m0, m1, m2: the ledger is not closed" in refusal(signed, capsys)


def test_the_owner_who_closed_the_ledgers_is_named(signed, owner):
    fingerprint = Identity.load(owner).card.fingerprint
    for market in document_of(signed).markets.values():
        assert (market.ledger.closed_by, market.ledger.self_signed, market.ledger.exact) == (fingerprint, False, True)
    assert fingerprint in (signed / "compliance.html").read_text()


def test_it_refuses_tuning_on_private_rows_under_a_claimed_release(signed):
    document = document_of(signed)
    tuned = document.model_copy(update={"run": document.run.model_copy(update={"tuned": True})})
    assert "tuned on private validation rows" in "".join(document_verdict(tuned).reasons)
    inside = tuned.run.model_copy(update={"protect": "federation", "claimed_views": ["server", "market", "collusion"]})
    assert document_verdict(tuned.model_copy(update={"run": inside})).compliant  # the model stays in the market


def test_tuning_without_a_budget_is_refused_unless_it_is_declared_away(tuned, tmp_path, capsys):
    signed = copied(tuned, tmp_path) / "run"
    assert "tuning is not accounted for: 1 of 2 runs" in refusal(signed, capsys)
    assert refusal(signed, capsys, "--declare-sole-run") == ""
    assert any("1 other runs" in item for item in data(signed)["document"]["verdict"]["open"])


def test_a_lost_account_is_refused(signed, capsys):
    (signed.parent / "privacy.account").unlink()
    assert "no privacy account" in refusal(signed, capsys)


def test_a_report_is_out_of_date_once_the_data_was_used_again(used_again, tmp_path, capsys):
    status, _, err = fedmm(capsys, "verify", copied(used_again, tmp_path) / "run" / "compliance.json")
    assert status == 1
    assert "all_runs.runs: says 1, the run gives 2" in err


def test_no_path_of_the_machine_is_in_it(signed):
    assert str(signed.parent) not in (signed / "compliance.json").read_text()


def test_the_page_escapes_what_it_shows(signed):
    report = SignedReport.model_validate(data(signed))
    hostile = report.document.model_copy(update={"environment": {"<script>alert(1)</script>": "</script><b>"}})
    html = page(SignedReport(document=hostile, signature=None))
    assert "<script>alert" not in html
    assert html.count("</script>") == page(report).count("</script>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "which run?"),
        (["report", "nowhere", "--max-epsilon", "3"], "go with --compliance"),
        (["report", "nowhere", "--max-delta", "1e-5"], "go with --compliance"),
        (["report", "nowhere", "--compliance"], "without your organisation's limit on ε, any ε would be compliant"),
        (["report", "nowhere", "--compliance", "--max-epsilon", "inf"], "a finite number above 0"),
        (["report", "nowhere", "--compliance", "--max-epsilon", "nan"], "a finite number above 0"),
        (["report", "nowhere", "--compliance", "--max-epsilon", "0"], "a finite number above 0"),
        (["report", "nowhere", "--compliance", "--max-epsilon", "8", "--max-delta", "1"], "between 0 and 1"),
        (["report", "nowhere", "--compliance", "--max-epsilon", "8"], "is this a run directory?"),
        (["audit", "synthetic", "--sign", "keys"], "--sign goes with the audit of a run"),
        (["verify", "nowhere", "--run", "x"], "are for compliance reports"),
        (["verify", "README.md"], "not valid JSON"),
        (["verify", "pyproject.toml"], "not valid JSON"),
    ],
)
def test_usage_errors_are_one_line(capsys, arguments, message):
    status, _, err = fedmm(capsys, *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_catalogue_is_stated_under_what_the_signer_declares_and_compared_with_the_run(signed):
    stated = data(signed)["document"]["markets"]["m0"]["catalogue"]
    metrics = json.loads((signed / "metrics.json").read_text())
    assert stated == metrics["privacy"]["catalogue"]["m0"]
    html = (signed / "compliance.html").read_text()
    declared = html[html.index("What the signer declares") : html.index("The guarantee, market by market")]
    assert "declared: that the file was not made from them: m0, m1, m2." in declared
    report = data(signed)
    report["document"]["markets"]["m0"]["catalogue"]["kind"] = "declared"
    (signed / "compliance.json").write_text(json.dumps(report))
    _, found = verify_report(signed / "compliance.json")
    assert any("catalogue.kind" in finding.what for finding in found)
