import json
import shutil

from privacy.aggregation.identities import CARD_FILE, Identity
from tests.command_line import fedmm
from tests.forgery import Forgery
from tests.released import signers_card

UNREAD = "not read, so not vouched for: state/"


def test_a_run_verifies_against_the_card_of_who_signed_it(released_run, capsys):
    status, out, err = fedmm(capsys, "verify", released_run, "--signer", signers_card(released_run))
    assert (status, err) == (0, "")
    verified, signed, beside = out.splitlines()
    assert verified.startswith(f"{released_run}: verified: ")
    assert signed.startswith("m0, m1, m2: signed by auditor ")
    assert "self-signed" not in signed
    assert beside == UNREAD


def test_another_card_is_a_finding_on_every_ledger(released_run, tmp_path, capsys):
    Identity.generate("auditor").save(tmp_path)
    status, _, err = fedmm(capsys, "verify", released_run, "--signer", tmp_path / CARD_FILE)
    assert status == 1
    assert len(err.splitlines()) == 3
    assert all("is signed by auditor " in line and ", not by auditor " in line for line in err.splitlines())


def test_a_run_that_signed_itself_is_shown_as_such(released_copy, capsys):
    Forgery(released_copy).finish(owner=True)
    status, out, _ = fedmm(capsys, "verify", released_copy)
    assert status == 0
    *lines, beside = out.splitlines()[1:]
    assert beside == UNREAD
    assert [line.split(": signed by ")[0] for line in lines] == ["m0", "m1", "m2"]
    assert all("a key of the run's own federation: self-signed" in line for line in lines)


def test_findings_and_signatures_for_machines(released_run, released_copy, capsys):
    status, out, _ = fedmm(capsys, "verify", released_run, "--json")
    found = json.loads(out)
    assert (status, found["findings"], found["notes"]) == (0, [], [UNREAD])
    assert sorted(found["signatures"]) == ["m0", "m1", "m2"]
    assert {(found["name"], found["own"]) for found in found["signatures"].values()} == {("auditor", False)}
    (released_copy / "codes" / "m0.parquet").unlink()
    (released_copy / "models" / "m0" / "ctr-0.pt").unlink()
    status, out, _ = fedmm(capsys, "verify", released_copy, "--json")
    assert status == 1
    assert {finding["what"] for finding in json.loads(out)["findings"]} == {
        "missing",
        "'models/m0/ctr-0.pt' was signed for, and is missing",
    }
    note, beside = json.loads(out)["notes"]
    assert beside == UNREAD
    assert note.startswith("m0: not shown")
    assert note.endswith(": codes/m0.parquet")


def test_other_code_than_the_readers_is_said(released_copy, capsys):
    forgery = Forgery(released_copy)
    forgery.json("environment.json", lambda found: found.update(code="0" * 64))
    forgery.finish(owner=True)
    status, out, _ = fedmm(capsys, "verify", released_copy)
    assert status == 0
    assert "computed by code 000000000000, checked by" in out.splitlines()[-2]


def test_options_of_reports_are_not_for_runs_nor_the_reverse(released_run, tmp_path, capsys):
    status, _, err = fedmm(capsys, "verify", released_run, "--card", signers_card(released_run))
    assert (status, len(err.splitlines())) == (2, 1)
    report = tmp_path / "compliance.json"
    report.write_text("{}")
    status, _, err = fedmm(capsys, "verify", report, "--signer", signers_card(released_run))
    assert (status, len(err.splitlines())) == (2, 1)
    assert "are for run directories" in err


def test_a_signers_card_that_is_none_is_one_line(released_run, tmp_path, capsys):
    (tmp_path / "card.json").write_text("{}")
    status, _, err = fedmm(capsys, "verify", released_run, "--signer", tmp_path / "card.json")
    assert (status, len(err.splitlines())) == (2, 1)


def test_a_copy_elsewhere_verifies_too(released_run, tmp_path, capsys):
    elsewhere = shutil.copytree(released_run, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("state"))
    assert fedmm(capsys, "verify", elsewhere)[0] == 0  # state is no evidence: nothing is missed
