"""``fedmm audit`` as a user types it: from a configuration's plan, and from that of a run that verifies."""

import json
import shutil

import pytest
import yaml

from attacks.auditing.audit import plan_audits
from attacks.auditing.faults import FAULTS
from attacks.auditing.joint import Alarm
from experiments.assessment import audit as audits
from experiments.assessment.statements import AUDIT, audit_file, binding_of, read_evidence_file
from experiments.compliance.evidence import examine
from experiments.verification import examine_run
from tests.command_line import call, fedmm
from tests.conftest import TINY

PRIVATE = {
    **TINY,
    "embedding": {"private": {"dim": 4}},
    "privacy": {**TINY["privacy"], "epsilon": 8.0, "protect": "release", "ctr": {"steps": 10}},
    "ctr": {"baselines": []},
    "aggregation": {"kind": "masked-ckks"},
}
STAGES = {"counts", "embedding", "quantizer", "ctr", "chain", "masks"}
FEW = ("--canaries", 16)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Where an auditor works."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def private_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(PRIVATE))
    return path


@pytest.fixture(scope="module")
def auditor(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "auditor"
    assert call("keys", "join", "auditor", "--keys", keys) == 0
    return keys


def honest_audit(capsys, *arguments):
    """What ``fedmm audit`` says of honest code. One in a hundred alarms by chance: its coins are tossed once more."""
    found = fedmm(capsys, "audit", *arguments)
    if found[0] == 1:
        shutil.rmtree("audits", ignore_errors=True)
        found = fedmm(capsys, "audit", *arguments)
    return found


def state(run):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*") if path.is_file()}


def test_an_audit_leaves_the_run_alone_and_what_an_auditor_signs_is_put_beside_it(
    released_run, released_copy, auditor, tmp_path, capsys
):
    before = state(released_run)
    status, out, err = honest_audit(capsys, released_run, "--market", "m0", *FEW, "--json")
    assert (status, err) == (0, "")
    assert state(released_run) == before
    found = [{key: held for key, held in each.items() if not key.endswith("_note")} for each in json.loads(out)]
    assert {result["stage"] for result in found} == STAGES
    chain = next(result for result in found if result["stage"] == "chain")
    assert chain["claimed"] == pytest.approx(8.0, rel=0.01)  # what the plan composes to
    folder = tmp_path / "work" / "audits" / binding_of(released_run).run / "m0"
    kinds = ("json", "parquet", "svg", "png", "csv")
    assert {path.name for path in folder.iterdir()} == {f"audit.{kind}" for kind in kinds}
    (statement,) = read_evidence_file(folder, folder / "audit.json")
    assert statement.results[AUDIT] == found
    # whoever has the nonce computes the same, digit for digit; results are of code, noise, event and nonce
    signing = ("--nonce", statement.settings["nonce"], "--sign", auditor, "--out", tmp_path / "mine")
    again = fedmm(capsys, "audit", released_copy, "--market", "m0", *FEW, "--json", *signing)
    assert again[0] == 0
    timeless = [[{**result, "seconds": 0} for result in json.loads(text)] for text in (out, again[1])]
    assert timeless[0] == timeless[1]
    (counts, *_) = plan_audits(audits.read_audited(str(released_run), [], "m0").plan, canaries=16)
    keys = {audits.result_key(counts, bytes.fromhex(nonce)) for nonce in (statement.settings["nonce"], "00" * 32)}
    assert len(keys) == 2
    assert found[0]["key"] in keys
    assert [path.name for path in audit_file(released_copy, "m0").parent.iterdir()] == ["audit.json"]
    assert [item.stated.standing for item in examine(released_copy)] == ["counts"]
    assert (tmp_path / "mine" / "m0" / "audit.json").is_file()
    assert examine_run(released_copy).findings == []
    page = (released_copy / "report.html").read_text()
    assert "Audit of the code, at the noise that the plan of m0 states" in page
    assert "would have detected" in page
    assert "code audited, by results that do not count" in page  # nobody vouched for the key


def test_audit_of_a_configuration_prints_a_verdict_for_each_stage(private_config, capsys):
    status, out, _ = honest_audit(capsys, private_config, *FEW)
    assert status == 0
    for shown in ("audit of the code, at the plan of market", "not refuted", "sees ε ≥", *STAGES):
        assert shown in out
    assert list(private_config.parent.glob("**/audit.json")) == []


def test_an_audit_fails_where_mechanisms_add_a_tenth_of_the_noise(private_config, capsys):
    with FAULTS["noise at a tenth"].broken():
        status, out, _ = fedmm(capsys, "audit", private_config, *FEW, "--workers", 1)
    assert status == 1
    assert "VIOLATED" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonce", "12"], "64 hexadecimal digits"),
        (["--set", "privacy.epsilon=4"], "leave out --set"),
        (["--market", "mars"], "--market mars"),
    ],
)
def test_a_mistake_gets_one_line(released_run, arguments, message, capsys):
    status, out, err = fedmm(capsys, "audit", released_run, *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def audited_faults(capsys, config, *more):
    """Exit status, the faults that were tried, and the share that was caught."""
    status, out, _ = fedmm(capsys, "audit", config, "--faults", "--json", *more)
    found = json.loads(out)
    return status, {result["fault"] for result in found}, sum(result["caught"] for result in found) / len(found)


@pytest.fixture
def few_faults(monkeypatch):
    """Those that short games find; ``attacks/auditing`` has each fault, without the command."""
    few = {name: FAULTS[name] for name in ("contribution bound ignored", "codebook not clipped", "masks reused")}
    monkeypatch.setattr(audits, "FAULTS", few)
    return set(few)


def test_audit_catches_faults(private_config, few_faults, capsys):
    assert audited_faults(capsys, private_config, *FEW) == (0, few_faults, 1.0)


@pytest.mark.slow
def test_audit_catches_every_fault(private_config, capsys):
    status, faults, share = audited_faults(capsys, private_config)
    assert (status, faults) == (0, set(FAULTS))
    assert share >= 0.9


def test_an_audit_that_misses_faults_fails(private_config, few_faults, monkeypatch, capsys):
    monkeypatch.setattr("attacks.auditing.verdicts.joint_test", lambda played: Alarm(1.0, "noise", "nothing"))
    status, out, _ = fedmm(capsys, "audit", private_config, "--faults", *FEW)
    assert status == 1
    assert "caught 0 of" in out


def test_the_plan_is_read_without_the_owners_memory(released_copy):
    shutil.rmtree(released_copy / "state")  # the owner's memory: nothing is read from it
    assert audits.read_audited(str(released_copy), [], "m0").plan.noise
