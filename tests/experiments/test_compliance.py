"""A compliance report says what the run gives, refuses what it must, and notices any change."""

import json
import re
import shutil

import jsonschema
import pytest
import yaml

from experiments.compliance.build import build_document
from experiments.compliance.check import verify_report
from experiments.compliance.document import Declarations, SignedReport, published_schema, schema
from experiments.compliance.judgement import judge
from experiments.compliance.signing import page
from tests.command_line import call, fedmm
from tests.conftest import TINY

DP = {"privacy.epsilon": 8, "privacy.protect": "release"}


def run_tiny(out, **settings):
    config = out.parent / f"{out.name}.yaml"
    out.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump({**TINY, "ctr": {"baselines": ["popularity"]}}))
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert call("run", config, "--out", out, "--quiet", *changes) == 0
    return out


@pytest.fixture(scope="module")
def auditor(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "auditor"
    assert call("keys", "join", "auditor", "--keys", keys) == 0
    return keys


@pytest.fixture(scope="module")
def original(tmp_path_factory, auditor):
    """A run with a budget for everything, and its signed report."""
    out = run_tiny(tmp_path_factory.mktemp("runs") / "run", **DP)
    assert call("report", out, "--compliance", "--sign", auditor, "--max-epsilon", 10) == 0
    return out


@pytest.fixture
def signed(original, tmp_path):
    shutil.copytree(original.parent, tmp_path / "runs")
    return tmp_path / "runs" / "run"


def data(run):
    return json.loads((run / "compliance.json").read_text())


def test_the_json_fits_the_published_schema(signed):
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
        assert stated["all_runs"] == {
            "runs": 1,
            "without_bound": 0,
            "epsilon": {view: views[view]["epsilon"] for view in ("market", "collusion", "consumer", "release")},
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


def test_a_changed_number_in_an_unsigned_report_is_found_against_the_run(signed, capsys):
    assert call("report", signed, "--compliance") == 0
    assert fedmm(capsys, "verify", signed / "compliance.json")[0] == 0
    report = data(signed)
    report["document"]["markets"]["m1"]["views"]["release"]["epsilon"] = 0.5
    report["document"]["questions"] = report["document"]["questions"]
    (signed / "compliance.json").write_text(json.dumps(report))
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json")
    assert status == 1
    assert "markets.m1.views.release.epsilon: says 0.5" in err


def test_an_unsigned_report_away_from_its_run_proves_nothing(signed, tmp_path, capsys):
    assert call("report", signed, "--compliance") == 0
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
    assert call("report", signed, "--compliance", "--sign", tmp_path / "mallory") == 0
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

    document = build_document(signed, Declarations(sole_run=False, max_epsilon=0.5))
    assert not document.verdict.compliant
    lie = document.model_copy(
        update={"verdict": document.verdict.model_copy(update={"compliant": True, "reasons": []})}
    )
    write_report_files(tmp_path, sign(lie, Identity.generate("mallory")))
    status, _, err = fedmm(capsys, "verify", tmp_path / "compliance.json")
    assert status == 1
    assert "verdict does not follow" in err


def test_a_rewritten_ledger_no_longer_fits_the_report(signed, capsys):
    """A whole ledger rewritten consistently passes a check of the run alone; the signed head hash gives it away."""
    from dataclasses import replace

    from privacy.accounting.ledger import Ledger, read_ledger

    path = signed / "ledger" / "m0.jsonl"
    entries, head = read_ledger(path)
    path.unlink()
    forged = Ledger(path)
    for entry in entries:
        forged.append(replace(entry, mechanism=entry.mechanism + " "))
    assert call("verify", signed) == 0
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json")
    assert status == 1
    assert "markets.m0.ledger.head" in err
    assert head in err


def refusal(run, capsys, *options):
    status, out, _ = fedmm(capsys, "report", run, "--compliance", *options)
    assert (status == 0) == ("not compliant" not in out)
    assert data(run)["document"]["verdict"]["compliant"] == (status == 0)
    return "\n".join(line for line in out.splitlines() if line.startswith("not compliant"))


def test_it_refuses_noise_from_a_seed(tmp_path, capsys):
    run = run_tiny(tmp_path / "runs" / "seeded", **DP, **{"privacy.noise_seed": 1})
    assert "known seed" in refusal(run, capsys)


def test_it_refuses_a_run_without_a_budget(tmp_path, capsys):
    run = run_tiny(tmp_path / "runs" / "plain")
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


def test_it_refuses_when_an_audit_says_violated(signed, capsys):
    folder = signed / "audit" / "m2"
    folder.mkdir(parents=True)
    result = {"stage": "ctr", "game": "crafted user", "claimed": 1.0, "low": 2.0, "low_gaussian": None,
              "low_one_run": None, "canaries": 500, "verdict": "VIOLATED", "needed": None, "seconds": 1.0}  # fmt: skip
    (folder / "audit.json").write_text(json.dumps({"level": 0.05, "results": [result]}))
    assert "m2: the audit refutes the claim of ctr" in refusal(signed, capsys)


def test_it_refuses_an_attack_beyond_the_bound(signed):
    document = build_document(signed, Declarations(sole_run=False, max_epsilon=None))
    attack = {
        "attack": "a",
        "view": "release",
        "measure": "AUC",
        "success": 0.9,
        "low": 0.8,
        "high": 1.0,
        "chance": 0.5,
    }
    raw = document.model_dump(mode="json")
    for within, compliant in ((True, True), (False, False), (None, True)):
        changed = type(document).model_validate({**raw, "attacks": [{**attack, "within": within}]})
        assert judge(changed).compliant is compliant


def test_it_refuses_an_epsilon_beyond_the_limit(signed, capsys):
    assert "exceeds the limit 2" in refusal(signed, capsys, "--max-epsilon", 2)


def test_runs_on_the_same_data_count_and_later_ones_too(signed, capsys):
    """Choosing the first of two runs has looked at both."""
    single = data(signed)["document"]["markets"]["m0"]["all_runs"]["epsilon"]["release"]
    run_tiny(signed.parent / "second", **DP)
    assert refusal(signed, capsys) == ""
    document = data(signed)["document"]
    together = document["markets"]["m0"]["all_runs"]
    assert together["runs"] == 2
    assert single * 1.2 < together["epsilon"]["release"] < 2 * single
    assert "of all runs on the data" in document["questions"][1]["answer"]


def test_tuning_without_a_budget_is_refused_unless_it_is_declared_away(signed, capsys):
    run_tiny(signed.parent / "tuning")
    assert "tuning is not accounted for: 1 of 2 runs" in refusal(signed, capsys)
    assert refusal(signed, capsys, "--declare-sole-run") == ""
    assert any("1 other runs" in item for item in data(signed)["document"]["verdict"]["open"])


def test_a_lost_account_is_refused(signed, capsys):
    (signed.parent / "privacy.account").unlink()
    assert "no privacy account" in refusal(signed, capsys)


def test_a_report_is_out_of_date_once_the_data_was_used_again(signed, capsys):
    run_tiny(signed.parent / "later", **DP)
    status, _, err = fedmm(capsys, "verify", signed / "compliance.json")
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
        (["report", "nowhere", "--compliance"], "is this a run directory?"),
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
    assert "Item catalogue of the generator of synthetic markets: m0, m1, m2." in declared
    report = data(signed)
    report["document"]["markets"]["m0"]["catalogue"]["kind"] = "file"
    (signed / "compliance.json").write_text(json.dumps(report))
    _, found = verify_report(signed / "compliance.json")
    assert any("catalogue.kind" in finding.what for finding in found)
